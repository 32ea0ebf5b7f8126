//! One thread that starts all replicas and lives as long as the platform.
//!
//! A replica asks the kernel to be killed when its parent dies, and the kernel means the parent
//! *thread*. A worker of the async runtime may end at any time and would take replicas with it.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

use crate::crash;
use crate::sys::open_files;

type Job = (Command, oneshot::Sender<io::Result<Child>>);

/// Starts processes from a thread that does not end before the platform does.
#[derive(Clone)]
pub struct Spawner {
    jobs: mpsc::Sender<Job>,
}

impl Spawner {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, answer) in queue {
                    let child = command.spawn();
                    if let Ok(child) = &child {
                        // It has hardly begun, and does not open a thousand files at once.
                        open_files::lower_for(child.id());
                    }
                    crash::point("replica.spawned");
                    // Close our copies of the child's ends before anybody waits for their end.
                    drop(command);
                    if let Err(Ok(mut orphan)) = answer.send(child) {
                        let _ = orphan.kill();
                        let _ = orphan.wait();
                    }
                }
            })?;
        Ok(Self { jobs })
    }

    /// Starts `command`.
    pub async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, child) = oneshot::channel();
        let gone = || io::Error::other("the spawner thread is gone");
        self.jobs.send((command, answer)).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}
