{{/* The part of every name that is this chart's. */}}
{{- define "gpheal.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of what the chart makes: the release's, with the chart's unless it is in there. */}}
{{- define "gpheal.fullname" -}}
{{- $name := include "gpheal.name" . }}
{{- $own := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $own | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* What tells this release's operators from everything else; never changes. */}}
{{- define "gpheal.selector" -}}
app.kubernetes.io/name: {{ include "gpheal.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "gpheal.labels" -}}
{{ include "gpheal.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "gpheal.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "gpheal.fullname" .) }}
{{- end }}

{{- define "gpheal.image" -}}
{{- $repository := required "image.repository is required: where your registry has gpheal's image" .Values.image.repository }}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The one who is given the rights. */}}
{{- define "gpheal.subjects" -}}
- kind: ServiceAccount
  name: {{ include "gpheal.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* What the operator may do where it heals, and no more: it executes in no pod, deletes nothing but Jobs of its own that have
not begun to copy and old recoveries of its own, and changes nothing that is not gpheal's own. Each right is used by a scenario that fails when one is missing or not used (e2e: rights). */}}
{{- define "gpheal.rules" -}}
# Which clusters there are, and what is asked of them.
- apiGroups: [gpheal.io]
  resources: [greenplumclusters]
  verbs: [get, list, watch]
# `create` makes the recoveries of automatic healing; `delete` removes those of them that are old and count for nothing any more.
- apiGroups: [gpheal.io]
  resources: [segmentrecoveries]
  verbs: [list, watch, create, delete]
# What was seen and done is told in the status, and nothing else of them is ever written.
- apiGroups: [gpheal.io]
  resources: [greenplumclusters/status, segmentrecoveries/status]
  verbs: [patch]
# So that a recovery may hold up its cluster's deletion, and a Job its recovery's, by an owner reference; asked for
# where the admission plugin OwnerReferencesPermissionEnforcement is on.
- apiGroups: [gpheal.io]
  resources: [greenplumclusters/finalizers, segmentrecoveries/finalizers]
  verbs: [update]
# Instances, and the pods of the Jobs.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# The progress of a Job stands in its log.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# The access mode of the claims of instances that are not well.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
# One Job per attempt. `get` looks at a namesake that is there already; `delete` ends one of its own that does not go on
# and has not begun to copy. Whoever may create Jobs can mount what is in the namespace, so where that is too much for
# all namespaces, name those that are watched.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# What happened, beside the object that it happened to. `list` finds out who refuses the pod of a Job that gets none.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, list]
{{- end }}

{{/* Pods of the watched namespaces, as peers of a network policy. */}}
{{- define "gpheal.watchedPeers" -}}
{{- if .Values.watch.namespaces -}}
- namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: In
        values: {{ toJson .Values.watch.namespaces }}
{{- else -}}
- namespaceSelector: {}
{{- end }}
{{- end }}
