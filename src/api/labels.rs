//! Names that gpheal leaves on objects.

/// On Jobs, their pods and recoveries: the cluster's name.
pub const CLUSTER: &str = "gpheal.io/cluster";
/// On Jobs and their pods: the recovery's name.
pub const RECOVERY: &str = "gpheal.io/recovery";
/// On Jobs and their pods: the instance.
pub const DBID: &str = "gpheal.io/dbid";
/// On Jobs and their pods: the number of the attempt, from 1.
pub const ATTEMPT: &str = "gpheal.io/attempt";
/// On recoveries: `automatic` when automatic healing made it.
pub const ORIGIN: &str = "gpheal.io/origin";
/// Value of [`ORIGIN`].
pub const AUTOMATIC: &str = "automatic";
/// On recoveries, an annotation: why automatic healing made it.
pub const WHY: &str = "gpheal.io/why";

/// On recoveries, an annotation: the recovery that this one goes on with.
pub const FOLLOWS: &str = "gpheal.io/follows";

/// Who writes, for server-side apply and events.
pub const MANAGER: &str = "gpheal";
