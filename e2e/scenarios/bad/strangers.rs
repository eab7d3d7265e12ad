//! What can stand behind a wrong address: a port that says nothing, one that never ends, a plain PostgreSQL. All of it on
//! the control plane's address, which every pod reaches.

use std::{
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    core::v1::Secret,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::{super::operator, Stage, until};
use crate::{
    conformance::Owner,
    fixture::{NAMESPACE, apply},
};

/// Of the control plane, on the bed's own network.
const ADDRESS: &str = "10.200.0.1";
const PLAIN_PORT: u16 = 25_432;
const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A Secret with a login that nobody lets in.
pub const WRONG_SECRET: &str = "wrong-password";
/// The name of one that is not there.
pub const NO_SECRET: &str = "nobody";
/// Lets the operator read these two.
const ROLE: &str = "gpheal-bad-input";

/// They end with their value.
pub struct Strangers {
    pub address: String,
    pub silent: u16,
    pub endless: u16,
    pub plain: u16,
    _talkers: JoinSet<()>,
    _postgres: PlainPostgres,
}

impl Strangers {
    pub async fn start() -> Result<Self> {
        let mut talkers = JoinSet::new();
        let silent = listen(&mut talkers, b"").await?;
        // Let in, and then told something without an end.
        let notice = b"N\0\0\0\x1eSNOTICE\0C01000\0Mand more\0\0".repeat(1000);
        let endless = listen(&mut talkers, notice.leak()).await?;
        let postgres = PlainPostgres::start().await?;
        Ok(Self { address: ADDRESS.into(), silent, endless, plain: PLAIN_PORT, _talkers: talkers, _postgres: postgres })
    }
}

/// Takes every connection, lets it in if there is something to say, and says it again and again.
async fn listen(talkers: &mut JoinSet<()>, said: &'static [u8]) -> Result<u16> {
    let listener = TcpListener::bind((ADDRESS, 0)).await.with_context(|| format!("cannot listen on {ADDRESS}"))?;
    let port = listener.local_addr()?.port();
    talkers.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            while open.try_join_next().is_some() {}
            open.spawn(async move {
                let mut asked = [0; 1024];
                let _ = stream.read(&mut asked).await;
                if !said.is_empty() && stream.write_all(b"R\0\0\0\x08\0\0\0\0").await.is_ok() {
                    while stream.write_all(said).await.is_ok() {}
                }
                while stream.read(&mut asked).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    Ok(port)
}

pub async fn wrong_secret(stage: &Stage) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(stage.cluster.kubernetes().clone(), NAMESPACE);
    let login = json!({ "username": "gpadmin", "password": "not the password" });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": WRONG_SECRET }, "stringData": login });
    api.patch(WRONG_SECRET, &PatchParams::apply("gpheal-e2e"), &Patch::Apply(secret)).await?;
    // The operator may read no secret that it was not given: the sample's Role, for these names.
    let role = operator::text("config/samples/credentials-role.yaml")?;
    let role =
        role.replace("[demo-gpheal-operator, demo-tls]", &format!("[{WRONG_SECRET}, {NO_SECRET}]")).replace("gpheal-credentials", ROLE);
    apply(stage.cluster.kubernetes(), &role).await
}

/// Takes the secret and the right to read it away.
pub async fn no_secret(stage: &Stage) -> Result<()> {
    let (client, how) = (stage.cluster.kubernetes().clone(), DeleteParams::default());
    Api::<Secret>::namespaced(client.clone(), NAMESPACE).delete(WRONG_SECRET, &how).await?;
    Api::<RoleBinding>::namespaced(client.clone(), NAMESPACE).delete(ROLE, &how).await?;
    Api::<Role>::namespaced(client, NAMESPACE).delete(ROLE, &how).await?;
    Ok(())
}

/// A PostgreSQL as Debian ships it, whose superuser is gpadmin and which lets everybody in.
struct PlainPostgres {
    child: Child,
    _folder: TempDir,
}

impl PlainPostgres {
    async fn start() -> Result<Self> {
        let (owner, folder) = (Owner::of_this_machine()?, TempDir::new()?);
        owner.folder(folder.path())?;
        let data = folder.path().join("data");
        let mut initdb = owner.command(&Path::new(BIN).join("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", "gpadmin", "-A", "trust", "--no-sync"]).current_dir(folder.path()).stdout(Stdio::null());
        ensure!(initdb.status()?.success(), "initdb failed");
        std::fs::write(data.join("pg_hba.conf"), "host all all 0.0.0.0/0 trust\n")?;
        let mut postgres = owner.command(&Path::new(BIN).join("postgres"));
        postgres.arg("-D").arg(&data).args(["-p", &PLAIN_PORT.to_string(), "-h", ADDRESS]).arg("-k").arg(folder.path());
        let child = postgres.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let started = Self { child, _folder: folder };
        until("a plain PostgreSQL to listen", Duration::from_secs(30), async || {
            Ok(tokio::net::TcpStream::connect((ADDRESS, PLAIN_PORT)).await.map(drop).map_err(|error| error.to_string()))
        })
        .await?;
        Ok(started)
    }
}

impl Drop for PlainPostgres {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
