//! A TCP proxy before PostgreSQL that decides the fate of every message of a client.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What becomes of a message of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It arrives, and so does its answer.
    Pass,
    /// It never arrives: both connections are closed before it.
    CutBefore,
    /// It arrives and is executed, and both connections are closed instead of its answer.
    CutAfter,
}

type Judge = Arc<Mutex<dyn FnMut(&[u8]) -> Fate + Send>>;

/// Passes connections on to `port`, every write of a client judged by `judge`; says the port it listens on.
pub(crate) async fn before(port: u16, judge: impl FnMut(&[u8]) -> Fate + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listens_on = listener.local_addr().unwrap().port();
    let judge: Judge = Arc::new(Mutex::new(judge));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(pass(client, server, Arc::clone(&judge)));
        }
    });
    listens_on
}

async fn pass(mut client: TcpStream, mut server: TcpStream, judge: Judge) {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let read = read.unwrap_or(0);
                if read == 0 {
                    return;
                }
                let fate = (judge.lock())(&asked[..read]);
                if fate == Fate::CutBefore || server.write_all(&asked[..read]).await.is_err() {
                    return;
                }
                if fate == Fate::CutAfter {
                    // The answer is here, so what was asked is done.
                    let _ = server.read(&mut answered).await;
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let read = read.unwrap_or(0);
                if read == 0 || client.write_all(&answered[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
