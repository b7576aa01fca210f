use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use semel_servers::{Mode, TcpProxy, Trigger};

/// An upstream that says back what it hears, in capitals, and reports it.
fn shouting() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tells, heard) = mpsc::channel();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, tells) = (client.unwrap(), tells.clone());
            thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(read @ 1..) = client.read(&mut buffer) {
                    let said = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    let _ = client.write_all(said.to_uppercase().as_bytes());
                    let _ = tells.send(said);
                }
                let _ = tells.send("<end>".to_owned());
            });
        }
    });
    (port, heard)
}

fn ask(client: &mut TcpStream, what: &str) -> io::Result<String> {
    client.write_all(what.as_bytes())?;
    answer(client)
}

fn answer(client: &mut TcpStream) -> io::Result<String> {
    let mut buffer = [0; 1024];
    let read = client.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

fn connect(proxy: &TcpProxy) -> TcpStream {
    let client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client
}

fn is_silent(client: &mut TcpStream) -> bool {
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let silent = answer(client).is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    silent
}

fn was_reset<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn passes_and_counts() {
    let (upstream, heard) = shouting();
    let proxy = TcpProxy::start(upstream).unwrap();
    let (mut one, mut two) = (connect(&proxy), connect(&proxy));
    assert_eq!(ask(&mut one, "a").unwrap(), "A");
    assert_eq!(ask(&mut two, "b").unwrap(), "B");
    assert_eq!((proxy.accepted(), proxy.open()), (2, 2));
    drop(one);
    assert_eq!([0; 3].map(|_| heard.recv_timeout(PATIENCE).unwrap()), ["a", "b", "<end>"]);
    assert_eq!(ask(&mut two, "c").unwrap(), "C");
}

#[test]
fn a_cut_resets_and_refuses_until_it_passes_again() {
    let (upstream, _heard) = shouting();
    let proxy = TcpProxy::start(upstream).unwrap();
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "a").unwrap(), "A");
    proxy.set(Mode::Cut);
    assert_eq!(proxy.open(), 0);
    was_reset(answer(&mut client));
    let refused = TcpStream::connect(("127.0.0.1", proxy.port()));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    proxy.set(Mode::Pass);
    assert_eq!(ask(&mut connect(&proxy), "a").unwrap(), "A");
}

#[test]
fn what_a_black_hole_took_arrives_when_it_passes_again() {
    let (upstream, heard) = shouting();
    let proxy = TcpProxy::start(upstream).unwrap();
    proxy.set(Mode::BlackHole);
    let mut client = connect(&proxy);
    client.write_all(b"a").unwrap();
    assert!(is_silent(&mut client) && heard.try_recv().is_err());
    proxy.set(Mode::Pass);
    assert_eq!(answer(&mut client).unwrap(), "A");
}

#[test]
fn who_missed_a_reply_is_reset() {
    let (upstream, heard) = shouting();
    let proxy = TcpProxy::start(upstream).unwrap();
    let (mut client, mut other) = (connect(&proxy), connect(&proxy));
    proxy.set(Mode::DropReplies);
    client.write_all(b"a").unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), "a");
    assert!(is_silent(&mut client));
    proxy.set(Mode::Pass);
    was_reset(answer(&mut client));
    assert_eq!(ask(&mut other, "b").unwrap(), "B");
}

#[test]
fn a_trigger_cuts_before_or_after_what_a_client_says() {
    let (upstream, heard) = shouting();
    let proxy = TcpProxy::start(upstream).unwrap();
    for (trigger, mode, arrives) in [
        (Trigger::Contains(b"UPDATE".to_vec()), Mode::Cut, ""),
        (Trigger::Contains(b"UPDATE".to_vec()), Mode::CutAtReply, "UPDATE t"),
        (Trigger::Contains(b"UPDATE".to_vec()), Mode::DropReplies, "UPDATE t"),
        (Trigger::Bytes(3), Mode::Cut, "UPD"),
        (Trigger::Bytes(8), Mode::CutAtReply, "UPDATE t"),
    ] {
        proxy.set(Mode::Pass);
        let mut client = connect(&proxy);
        assert_eq!(ask(&mut client, "select").unwrap(), "SELECT");
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), "select");
        proxy.set_when(trigger, mode);
        client.write_all(b"UPDATE t").unwrap();
        match mode {
            Mode::DropReplies => assert!(is_silent(&mut client)),
            _ => was_reset(answer(&mut client)),
        }
        assert_eq!(proxy.mode(), mode);
        if mode == Mode::DropReplies {
            proxy.set(Mode::Cut);
        }
        let said: String = heard.iter().take_while(|said| said != "<end>").collect();
        assert_eq!(said, arrives);
    }
}

#[test]
fn a_trigger_sees_what_is_said_in_pieces() {
    let (upstream, _heard) = shouting();
    let proxy = TcpProxy::start(upstream).unwrap();
    proxy.set_when(Trigger::Contains(b"UPDATE".to_vec()), Mode::Cut);
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "UPD").unwrap(), "UPD");
    was_reset(ask(&mut client, "ATE"));
}

#[test]
fn a_delay_delays_both_ways() {
    let (upstream, _heard) = shouting();
    let proxy = TcpProxy::start(upstream).unwrap();
    let mut client = connect(&proxy);
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let asked = Instant::now();
    assert_eq!(ask(&mut client, "a").unwrap(), "A");
    assert!(asked.elapsed() >= Duration::from_millis(200));
}
