use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config;
use crate::pool::Pool;
use crate::proxy::listener::Settings;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn front() -> Arc<Listener> {
    let text = "[listeners.a]\nbind = \"127.0.0.1:0\"\npool = \"a\"\n[pools.a]\nbackends = [\"127.0.0.1:1\"]";
    let config = config::parse(text, "test.toml", &|_| None).unwrap();
    let (pool, _evidence) = Pool::new(config.pools[0].clone(), 2);
    let named = |_: &str| Some(Arc::clone(&pool));
    let settings = Settings::new(config.listeners[0].clone(), config.log.sessions, None, named).unwrap();
    Listener::new(settings, Vec::new(), Places::new(10), TaskTracker::new())
}

#[tokio::test]
async fn a_worker_that_cannot_accept_tells_who_asks_before_and_who_asks_after() {
    let workers = WorkerThreads::start(2, Rings::No).unwrap();
    let death = workers.death();
    // epoll takes no regular file.
    let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
    workers.workers().listen(3, Arc::new(file), front(), CancellationToken::new());
    assert_eq!(timeout(PATIENCE, death).await.unwrap(), 1);
    assert_eq!(timeout(PATIENCE, workers.death()).await.unwrap(), 1);
    workers.workers().stop();
}

#[tokio::test]
async fn workers_that_stop_have_not_died() {
    let workers = WorkerThreads::start(2, Rings::No).unwrap();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    workers.workers().listen(0, Arc::new(socket.into()), front(), CancellationToken::new());
    let (died, threads) = (workers.died.clone(), workers.death());
    workers.workers().stop();
    // The threads are gone when nothing is left that could tell.
    let mut gone = died.clone();
    timeout(PATIENCE, async { while gone.changed().await.is_ok() {} }).await.unwrap();
    assert_eq!(*died.borrow(), None);
    let died = async {
        tokio::select! {
            biased;
            _ = threads => true,
            () = std::future::ready(()) => false,
        }
    };
    assert!(!died.await);
    // Not at once: a child that another test starts has a copy of the socket until its exec(2).
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
}

#[test]
fn only_a_panic_is_a_death() {
    let (to, died) = watch::channel(None);
    let notice = PanicNotice { index: 7, to };
    drop(notice.clone());
    assert_eq!(*died.borrow(), None);
    thread::spawn(move || {
        let _notice = notice;
        panic!("asked for by a test");
    })
    .join()
    .unwrap_err();
    assert_eq!(*died.borrow(), Some(7));
}
