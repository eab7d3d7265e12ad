//! Keys, certificates and kubeconfigs: made once and kept with the bed.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::{
    command::{line, make_folder, run, write},
    layout::{CLUSTER_DOMAIN, CONTROL_ADDRESS, Layout, Node},
};

/// So that the certificate says what is wanted and not what the machine's defaults are.
const OPENSSL_CONFIG: &str = "[req]\ndistinguished_name = name\n[name]\n";
const CURVE: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650";

/// Who talks to the API server, with the groups and names that Kubernetes gives rights to.
const USERS: [(&str, &str); 5] = [
    ("admin", "/O=system:masters/CN=admin"),
    ("coredns", "/O=system:masters/CN=coredns"),
    ("kube-controller-manager", "/CN=system:kube-controller-manager"),
    ("kube-proxy", "/CN=system:kube-proxy"),
    ("kube-scheduler", "/CN=system:kube-scheduler"),
];

pub fn ensure(layout: &Layout) -> Result<()> {
    make_folder(&layout.pki(""))?;
    write(&layout.pki("openssl.cnf"), OPENSSL_CONFIG)?;
    authority(layout)?;
    service_account_key(layout)?;
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(|name| format!("DNS:{name}"));
    let names = format!("{},IP:127.0.0.1,IP:10.96.0.1,IP:{CONTROL_ADDRESS},DNS:kubernetes.default.svc.{CLUSTER_DOMAIN}", names.join(","));
    certificate(layout, "kube-apiserver", "/CN=kube-apiserver", Some(&names))?;
    for (user, subject) in USERS {
        certificate(layout, user, subject, None)?;
        write(&layout.kubeconfig_of(user), &kubeconfig(layout, user))?;
    }
    for node in Node::all() {
        let user = node.to_string();
        let names = format!("DNS:{node},IP:{}", node.address());
        certificate(layout, &user, &format!("/O=system:nodes/CN=system:node:{node}"), Some(&names))?;
        write(&layout.kubeconfig_of(&user), &kubeconfig(layout, &user))?;
    }
    write(&layout.kubeconfig(), &kubeconfig(layout, "admin"))
}

fn authority(layout: &Layout) -> Result<()> {
    if layout.pki("ca.crt").exists() {
        return Ok(());
    }
    let mut command = line(&format!("openssl req -x509 {CURVE} -subj /CN=gpheal-bed"));
    command.args(["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
    command.arg("-config").arg(layout.pki("openssl.cnf"));
    command.arg("-keyout").arg(layout.pki("ca.key")).arg("-out").arg(layout.pki("ca.crt"));
    run(&mut command).map(drop)
}

fn certificate(layout: &Layout, name: &str, subject: &str, alternatives: Option<&str>) -> Result<()> {
    let (key, certificate) = (layout.pki(&format!("{name}.key")), layout.pki(&format!("{name}.crt")));
    if certificate.exists() {
        return Ok(());
    }
    let mut command = line(&format!("openssl req -x509 {CURVE}"));
    command.arg("-config").arg(layout.pki("openssl.cnf"));
    command.arg("-CA").arg(layout.pki("ca.crt")).arg("-CAkey").arg(layout.pki("ca.key"));
    command.args(["-subj", subject, "-addext", "basicConstraints=critical,CA:FALSE"]);
    command.args(["-addext", "extendedKeyUsage=serverAuth,clientAuth"]);
    if let Some(names) = alternatives {
        command.args(["-addext", &format!("subjectAltName={names}")]);
    }
    command.arg("-keyout").arg(key).arg("-out").arg(certificate);
    run(&mut command).map(drop)
}

fn service_account_key(layout: &Layout) -> Result<()> {
    let key = layout.pki("service-accounts.key");
    if key.exists() {
        return Ok(());
    }
    // In the older of two file formats: the API server reads the public half of no other.
    run(line("openssl ecparam -name prime256v1 -genkey -noout -out").arg(key)).map(drop)
}

fn kubeconfig(layout: &Layout, user: &str) -> String {
    let file = |path: &Path| path.display().to_string();
    let cluster = json!({
        "server": format!("https://{CONTROL_ADDRESS}:6443"),
        "certificate-authority": file(&layout.pki("ca.crt")),
    });
    let credentials = json!({
        "client-certificate": file(&layout.pki(&format!("{user}.crt"))),
        "client-key": file(&layout.pki(&format!("{user}.key"))),
    });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "bed", "cluster": cluster }],
        "users": [{ "name": user, "user": credentials }],
        "contexts": [{ "name": "bed", "context": { "cluster": "bed", "user": user } }],
        "current-context": "bed",
    });
    format!("{config:#}\n")
}
