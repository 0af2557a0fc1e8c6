//! Talking to systemd: each request opens a connection of its own, on a thread of its own, so that nothing of the caller's
//! (an async runtime it may be inside of, a connection it may have) is touched and a silent peer costs a bounded time.

use std::pin::Pin;
use std::sync::mpsc;
use std::time::Duration;

use zbus::export::futures_core::Stream;
use zbus::{Connection, Message, MessageStream, OwnedObjectPath, OwnedVariant, Variant};

use super::name::ScopeName;
use super::properties::Properties;
use crate::error::{Error, Result};

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// How long systemd may take for a job.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
pub(super) enum Bus {
    System,
    User,
}

/// A connection to the bus systemd is on. Its own socket (`/run/systemd/private`), which works without a bus, is no way for a
/// D-Bus library: what comes from there names a sender that the specification does not allow.
struct Peer {
    connection: Connection,
}

impl Bus {
    pub(super) fn version(self) -> Result<String> {
        self.ask("ask", None, async |peer| {
            let arguments = (MANAGER, "Version");
            let path = MANAGER_PATH.to_owned();
            let answer = peer.call(path, "org.freedesktop.DBus.Properties", "Get", &arguments).await?;
            Ok(answer.body().deserialize::<OwnedVariant>()?.to_string())
        })
    }

    /// Starts a scope and waits until it runs.
    pub(super) fn start(self, name: &ScopeName, pids: &[u32], limits: Properties) -> Result<()> {
        let unit = name.unit().to_owned();
        let mut properties: Properties = vec![
            ("Description".to_owned(), format!("container {unit}").into()),
            ("Delegate".to_owned(), true.into()),
            ("DefaultDependencies".to_owned(), false.into()),
            ("PIDs".to_owned(), Variant::from(pids.to_vec())),
        ];
        if let Some(slice) = name.slice() {
            properties.push(("Slice".to_owned(), slice.to_owned().into()));
        }
        properties.extend(limits);
        self.ask("start", Some(name), async move |peer| {
            let mut jobs = peer.jobs().await?;
            let others: Vec<(String, Properties)> = Vec::new();
            let arguments = (&unit, "fail", properties, others);
            let started = peer.manager("StartTransientUnit", &arguments).await?;
            let job: OwnedObjectPath = started.body().deserialize()?;
            match jobs.result_of(&job).await?.as_str() {
                "done" => Ok(()),
                result => Err(zbus::Error::Failure(format!("the start job ended as {result:?}"))),
            }
        })
    }

    pub(super) fn set(self, name: &ScopeName, properties: Properties) -> Result<()> {
        let unit = name.unit().to_owned();
        self.ask("set properties of", Some(name), async move |peer| {
            peer.manager("SetUnitProperties", &(unit, true, properties)).await.map(drop)
        })
    }

    /// Stops a scope and waits until it is gone.
    pub(super) fn stop(self, name: &ScopeName) -> Result<()> {
        let unit = name.unit().to_owned();
        self.ask("stop", Some(name), async move |peer| {
            let mut jobs = peer.jobs().await?;
            match peer.manager("StopUnit", &(&unit, "replace")).await {
                Ok(stopped) => {
                    let job: OwnedObjectPath = stopped.body().deserialize()?;
                    jobs.result_of(&job).await?;
                }
                // It went with its last process.
                Err(zbus::Error::MethodError(name, ..))
                    if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit" => {}
                Err(error) => return Err(error),
            }
            // Killed processes make it "failed", and a failed unit's name stays in use. Most are not, which is an error here.
            let _ = peer.manager("ResetFailedUnit", &(&unit,)).await;
            Ok(())
        })
    }

    /// The scope's group, as systemd sees it.
    pub(super) fn control_group(self, name: &ScopeName) -> Result<String> {
        let unit = name.unit().to_owned();
        self.ask("find", Some(name), async move |peer| {
            let found = peer.manager("GetUnit", &(unit,)).await?;
            let path: OwnedObjectPath = found.body().deserialize()?;
            let arguments = ("org.freedesktop.systemd1.Scope", "ControlGroup");
            let answer = peer
                .call(path.as_str().to_owned(), "org.freedesktop.DBus.Properties", "Get", &arguments)
                .await?;
            String::try_from(answer.body().deserialize::<OwnedVariant>()?)
        })
    }

    /// Connects and runs `request`, both within [`PATIENCE`].
    fn ask<T: Send + 'static>(
        self,
        action: &'static str,
        name: Option<&ScopeName>,
        request: impl AsyncFnOnce(Peer) -> zbus::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (send, receive) = mpsc::channel();
        let unit = name.map_or("systemd", ScopeName::unit).to_owned();
        let failed = |source| Error::Systemd { action, unit, source };
        let spawned = std::thread::Builder::new().name("systemd".to_owned()).spawn(move || {
            let answer = zbus::block_on(async { request(self.connect().await?).await });
            // Nobody listens any more when it took too long.
            let _ = send.send(answer);
        });
        if let Err(error) = spawned {
            return Err(failed(error.into()));
        }
        match receive.recv_timeout(PATIENCE) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failed(error.into())),
            Err(_) => Err(failed("systemd did not answer within 30 seconds".into())),
        }
    }

    async fn connect(self) -> zbus::Result<Peer> {
        let connection = match self {
            Self::System => Connection::system().await?,
            Self::User => Connection::session().await?,
        };
        Ok(Peer { connection })
    }
}

impl Peer {
    async fn call<B>(
        &self,
        path: String,
        interface: &str,
        method: &str,
        arguments: &B,
    ) -> zbus::Result<Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.connection.call_method(Some(SERVICE), path, Some(interface), method, arguments).await
    }

    async fn manager<B>(&self, method: &str, arguments: &B) -> zbus::Result<Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.call(MANAGER_PATH.to_owned(), MANAGER, method, arguments).await
    }

    /// Listens for jobs that end; to be called before the job is asked for.
    async fn jobs(&self) -> zbus::Result<Jobs> {
        let messages = MessageStream::from(&self.connection);
        let rule = format!("type='signal',interface='{MANAGER}',member='JobRemoved',path='{MANAGER_PATH}'");
        let bus = "org.freedesktop.DBus";
        self.connection
            .call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "AddMatch", &(rule,))
            .await?;
        self.manager("Subscribe", &()).await?;
        Ok(Jobs { messages })
    }
}

struct Jobs {
    messages: MessageStream,
}

impl Jobs {
    /// Waits for the end of `job` and returns how it ended.
    async fn result_of(&mut self, job: &OwnedObjectPath) -> zbus::Result<String> {
        loop {
            let next = std::future::poll_fn(|context| Pin::new(&mut self.messages).poll_next(context)).await;
            let Some(message) = next else {
                return Err(zbus::Error::Failure("the connection ended before the job did".to_owned()));
            };
            let message = message?;
            let header = message.header();
            if header.member().is_none_or(|member| member.as_str() != "JobRemoved") {
                continue;
            }
            let body = message.body();
            let (_number, path, _unit, result): (u32, OwnedObjectPath, String, String) =
                body.deserialize()?;
            if path == *job {
                return Ok(result);
            }
        }
    }
}
