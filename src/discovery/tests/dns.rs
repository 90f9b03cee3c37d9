//! The followers of names, against a server of names that does what a test says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::config::{DnsRecords, DnsSource};

const SERVICE: &str = "_pg._tcp.example";

/// A question that came.
#[derive(Clone)]
struct Asked {
    message: Message,
    over_tcp: bool,
}

impl Asked {
    fn name(&self) -> String {
        self.message.queries[0].name().to_ascii().trim_end_matches('.').to_owned()
    }

    fn kind(&self) -> RecordType {
        self.message.queries[0].query_type()
    }

    /// An answer to it, with these records.
    fn reply(&self, answers: Vec<Record>, additionals: Vec<Record>) -> Message {
        let mut reply = Message::response(self.message.metadata.id, OpCode::Query);
        reply.queries = self.message.queries.clone();
        (reply.answers, reply.additionals) = (answers, additionals);
        reply
    }

    fn code(&self, code: ResponseCode) -> Vec<Vec<u8>> {
        let mut reply = self.reply(Vec::new(), Vec::new());
        reply.metadata.response_code = code;
        sent(&reply)
    }
}

fn sent(message: &Message) -> Vec<Vec<u8>> {
    vec![message.to_vec().unwrap()]
}

fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(format!("{name}.")).unwrap(), ttl, data)
}

fn srv(priority: u16, weight: u16, target: &str) -> Record {
    srv_for(0, priority, weight, target)
}

fn srv_for(ttl: u32, priority: u16, weight: u16, target: &str) -> Record {
    let target = Name::from_ascii(format!("{target}.")).unwrap();
    record(SERVICE, ttl, RData::SRV(SRV::new(priority, weight, 80, target)))
}

fn at(name: &str, ip: &str) -> Record {
    let data = match ip.parse::<IpAddr>().unwrap() {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    };
    record(name, 0, data)
}

type Says = Arc<dyn Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync>;

struct Server {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Server {
    async fn start(says: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let says: Arc<Mutex<Says>> = Arc::new(Mutex::new(Arc::new(says)));
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let answered = {
            let (says, asked) = (Arc::clone(&says), Arc::clone(&asked));
            move |bytes: &[u8], over_tcp| {
                let question = Asked { message: Message::from_vec(bytes).unwrap(), over_tcp };
                asked.lock().unwrap().push(question.clone());
                let says = Arc::clone(&says.lock().unwrap());
                says(&question)
            }
        };
        let by_udp = answered.clone();
        let udp = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let Ok((length, from)) = udp.recv_from(&mut buffer).await else { continue };
                for packet in by_udp(&buffer[..length], false) {
                    udp.send_to(&packet, from).await.unwrap();
                }
            }
        });
        let tcp = tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut bytes = vec![0; usize::from(length)];
                stream.read_exact(&mut bytes).await.unwrap();
                for packet in answered(&bytes, true) {
                    stream.write_u16(packet.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&packet).await.unwrap();
                }
            }
        });
        Self { address, says, asked, _tasks: [AbortOnDropHandle::new(udp), AbortOnDropHandle::new(tcp)] }
    }

    fn say(&self, says: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        *self.says.lock().unwrap() = Arc::new(says);
    }

    fn source(&self) -> DnsSource {
        DnsSource {
            name: SERVICE.to_owned(),
            resolvers: vec![self.address],
            min_ttl: Duration::from_millis(5),
            timeout: PATIENCE,
            ..DnsSource::default()
        }
    }

    /// What was asked so far, as `name type`, over TCP with a `+`.
    fn asked(&self) -> Vec<String> {
        let shown =
            |asked: &Asked| format!("{} {}{}", asked.name(), asked.kind(), if asked.over_tcp { " +" } else { "" });
        self.asked.lock().unwrap().iter().map(shown).collect()
    }

    async fn until_asked(&self, count: usize) {
        soon("such a question", async {
            while self.asked.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

fn follow(source: DnsSource) -> Running {
    Running::start(&mut Discovery::with(nameless(), no_fronts(), quick()), &Source::Dns(source))
}

fn two(asked: &Asked) -> Message {
    asked.reply(
        vec![srv(10, 5, "a.example"), srv(20, 0, "b.example")],
        vec![at("a.example", "10.0.0.1"), at("b.example", "10.0.0.2"), at("a.example", "fd00::1")],
    )
}

const TWO: [&str; 2] = ["a.example:80 10.0.0.1:80 5 passing", "b.example:80 10.0.0.2:80 1 passing"];

#[tokio::test]
async fn answers_are_instances_and_additional_records_are_their_addresses() {
    let server = Server::start(|asked| sent(&two(asked))).await;
    let mut running = follow(server.source());
    let update = running.update().await;
    assert_eq!(shown(&update), TWO);
    assert_eq!(update.endpoints.iter().map(|endpoint| endpoint.priority).collect::<Vec<_>>(), [0, 1]);
    let candidates = ["10.0.0.1:80", "[fd00::1]:80"].map(|at| at.parse().unwrap());
    assert_eq!(*update.endpoints[0].candidates, candidates);
    // The same answer in another order is no news; one that lacks a target takes it away at once.
    server.say(|asked| {
        let mut reply = two(asked);
        reply.answers.reverse();
        reply.additionals.reverse();
        sent(&reply)
    });
    server.until_asked(server.asked().len() + 2).await;
    server.say(|asked| sent(&asked.reply(vec![srv(20, 0, "b.example")], vec![at("b.example", "10.0.0.2")])));
    let update = running.update().await;
    assert_eq!((shown(&update), update.trust), (vec![TWO[1].to_owned()], Trust::Calm));
    assert!(server.asked().iter().all(|asked| asked == &format!("{SERVICE} SRV")), "{:?}", server.asked());
    let asked = server.asked.lock().unwrap()[0].message.clone();
    assert!(asked.edns.is_some_and(|edns| edns.max_payload() == 1232) && asked.metadata.recursion_desired);
    running.status(|view| view.error.is_none() && view.last_success.is_some()).await;
}

#[tokio::test]
async fn an_answer_that_was_cut_is_asked_for_over_tcp() {
    for cuts_a_record in [false, true] {
        let server = Server::start(move |asked| {
            let mut reply = two(asked);
            reply.metadata.truncation = !asked.over_tcp;
            let mut bytes = reply.to_vec().unwrap();
            if !asked.over_tcp && cuts_a_record {
                bytes.truncate(bytes.len() - 30);
            }
            vec![bytes]
        })
        .await;
        let mut running = follow(server.source());
        assert_eq!(running.set().await, TWO);
        assert_eq!(server.asked()[..2], [format!("{SERVICE} SRV"), format!("{SERVICE} SRV +")]);
    }
}

#[tokio::test]
async fn tcp_alone_where_that_is_wanted_and_cut_there_too_is_an_error() {
    let server = Server::start(|asked| sent(&two(asked))).await;
    let mut running = follow(DnsSource { tcp: true, ..server.source() });
    assert_eq!(running.set().await, TWO);
    assert!(server.asked().iter().all(|asked| asked.ends_with('+')), "{:?}", server.asked());
    server.say(|asked| {
        let mut reply = two(asked);
        reply.metadata.truncation = true;
        sent(&reply)
    });
    running.status(|view| view.errors.contains_key("invalid")).await;
    assert_eq!(running.update().await.trust, Trust::Failing);
}

#[tokio::test]
async fn packets_that_are_no_answer_are_passed_over() {
    let server = Server::start(|asked| {
        let real = two(asked);
        let (mut other_id, mut other_question, mut a_question) = (real.clone(), real.clone(), real.clone());
        other_id.metadata.id = real.metadata.id.wrapping_add(1);
        other_id.answers.clear();
        other_question.queries[0].set_query_type(RecordType::A);
        other_question.answers.clear();
        a_question.metadata.message_type = hickory_proto::op::MessageType::Query;
        let mut garbage = vec![b"garbage".to_vec(), Vec::new(), real.metadata.id.to_be_bytes().to_vec()];
        garbage.extend([other_id, other_question, a_question, real].map(|message| message.to_vec().unwrap()));
        garbage
    })
    .await;
    let mut running = follow(server.source());
    assert_eq!(running.set().await, TWO);
    // Nothing but these is no answer, and is not an empty set.
    server.say(|_| vec![b"garbage".to_vec()]);
    let mut running = follow(DnsSource { timeout: Duration::from_millis(50), ..server.source() });
    let view = running.status(|view| view.error.is_some()).await;
    assert_eq!(view.error.unwrap().1, "invalid");
    assert!(running.updates.try_recv().is_err());
}

#[tokio::test]
async fn servers_are_asked_in_turn_and_the_one_that_answers_first_next_time() {
    let broken = Server::start(|asked| asked.code(ResponseCode::ServFail)).await;
    let good = Server::start(|asked| sent(&two(asked))).await;
    // Nothing listens there.
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let silent = Server::start(|_| Vec::new()).await;
    let resolvers = vec![closed, silent.address, broken.address, good.address];
    let source = DnsSource { resolvers, timeout: Duration::from_millis(200), ..good.source() };
    let mut running = follow(source);
    assert_eq!(running.set().await, TWO);
    good.until_asked(5).await;
    assert_eq!((broken.asked().len(), silent.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_fault_is_never_a_set_however_long_it_lasts() {
    let server = Server::start(|asked| sent(&two(asked))).await;
    let mut running = follow(DnsSource { hold: Duration::ZERO, timeout: Duration::from_millis(20), ..server.source() });
    assert_eq!(running.set().await, TWO);
    for (kind, code) in [
        ("server_failure", Some(ResponseCode::ServFail)),
        ("server_failure", Some(ResponseCode::Refused)),
        ("timeout", None),
    ] {
        server.say(move |asked| code.map_or_else(Vec::new, |code| asked.code(code)));
        let before = running.status.view().errors.get(kind).map_or(0, |errors| errors.count);
        running.status(|view| view.errors.get(kind).is_some_and(|errors| errors.count > before + 3)).await;
    }
    let update = running.update().await;
    assert_eq!((shown(&update), update.trust), (TWO.map(str::to_owned).to_vec(), Trust::Failing));
    assert!(running.updates.try_recv().is_err());
    server.say(|asked| sent(&asked.reply(vec![srv(20, 0, "b.example")], vec![at("b.example", "10.0.0.2")])));
    assert_eq!(running.update().await.trust, Trust::Doubted(Mistrust::Trouble));
}

#[tokio::test]
async fn that_there_is_nothing_is_believed_when_it_has_been_said_for_long() {
    let nothing = |asked: &Asked| asked.code(ResponseCode::NXDomain);
    let empty = |asked: &Asked| asked.code(ResponseCode::NoError);
    for (kind, is_missing) in [("no_such_name", true), ("empty", false)] {
        let says = move |asked: &Asked| if is_missing { nothing(asked) } else { empty(asked) };
        let server = Server::start(|asked| sent(&two(asked))).await;
        let mut running = follow(DnsSource { hold: Duration::from_millis(400), ..server.source() });
        assert_eq!(running.set().await, TWO);
        server.say(says);
        let began = std::time::Instant::now();
        let update = running.update().await;
        assert_eq!((shown(&update).len(), update.trust), (2, Trust::Failing));
        assert_eq!(running.status(|view| view.error.is_some()).await.error.unwrap().1, kind);
        assert_eq!(running.set().await, [""; 0]);
        assert!(began.elapsed() >= Duration::from_millis(400));
        running.status(|view| view.error.is_none()).await;
        // And a good answer counts at once.
        server.say(|asked| sent(&two(asked)));
        assert_eq!(running.set().await, TWO);
        // With a long hold nothing comes of it.
        let mut held = follow(server.source());
        assert_eq!(held.set().await, TWO);
        server.say(says);
        held.status(|view| view.errors.get(kind).is_some_and(|errors| errors.count > 3)).await;
    }
}

#[tokio::test]
async fn a_target_of_no_name_says_that_there_is_no_service() {
    let server = Server::start(|asked| sent(&two(asked))).await;
    let mut running = follow(server.source());
    assert_eq!(running.set().await, TWO);
    let none = || record(SERVICE, 0, RData::SRV(SRV::new(0, 0, 0, Name::root())));
    server.say(move |asked| sent(&asked.reply(vec![none()], Vec::new())));
    let update = running.update().await;
    assert_eq!((update.endpoints.len(), update.trust), (0, Trust::Calm));
}

#[tokio::test]
async fn additional_records_that_lie_are_not_believed_and_targets_without_are_looked_up() {
    let server = Server::start(|asked| {
        sent(&match (&*asked.name(), asked.kind()) {
            (_, RecordType::SRV) => asked.reply(
                vec![srv(1, 1, "a.example"), srv(1, 1, "b.example"), srv(1, 1, "c.example")],
                vec![at("evil.example", "10.6.6.6"), at("a.example", "0.0.0.0"), at("b.example", "10.0.0.2")],
            ),
            ("a.example", RecordType::A) => {
                let alias = RData::CNAME(CNAME(Name::from_ascii("real.example.").unwrap()));
                let records =
                    vec![at("real.example", "10.0.0.1"), record("a.example", 0, alias), at("x.example", "10.6.6.6")];
                asked.reply(records, Vec::new())
            }
            ("a.example", _) => asked.reply(vec![at("a.example", "fd00::1")], Vec::new()),
            _ => asked.reply(Vec::new(), Vec::new()),
        })
    })
    .await;
    let mut running = follow(server.source());
    let update = running.update().await;
    assert_eq!(shown(&update), ["a.example:80 10.0.0.1:80 1 passing", "b.example:80 10.0.0.2:80 1 passing"]);
    assert_eq!(update.endpoints[0].candidates.len(), 2);
    let view = running.status(|view| view.rejected.count() == 1).await;
    assert_eq!((&*view.rejected[0].id, &*view.rejected[0].why), ("c.example:80", "c.example has no address"));
    // A target whose address can't be had any more stays where it was.
    server.say(|asked| match asked.kind() {
        RecordType::SRV => sent(&asked.reply(vec![srv(1, 7, "a.example"), srv(1, 1, "b.example")], Vec::new())),
        _ => asked.code(ResponseCode::ServFail),
    });
    assert_eq!(running.set().await, ["a.example:80 10.0.0.1:80 7 passing", "b.example:80 10.0.0.2:80 1 passing"]);
}

/// As dnsmasq does: the names in its additional records lead anywhere in an answer beyond 16 KiB.
#[tokio::test]
async fn additional_records_of_a_large_answer_or_that_can_t_be_read_are_not_used() {
    for is_large in [true, false] {
        let server = Server::start(move |asked| match asked.kind() {
            RecordType::SRV => {
                let targets = (0..if is_large { 600 } else { 1 }).map(|n| format!("target-{n}.example"));
                let answers = targets.map(|target| srv(1, 1, &target)).collect();
                let lies = vec![at("target-0.example", "10.6.6.6")];
                let mut bytes = asked.reply(answers, lies).to_vec().unwrap();
                assert_eq!(bytes.len() > 0x3fff, is_large);
                if !is_large {
                    // One more is said to be there.
                    bytes[11] += 1;
                }
                let is_cut = is_large && !asked.over_tcp;
                bytes[2] |= if is_cut { 0x02 } else { 0 };
                bytes.truncate(if is_cut { 512 } else { bytes.len() });
                vec![bytes]
            }
            RecordType::A => sent(&asked.reply(vec![at(&asked.name(), "10.0.0.1")], Vec::new())),
            _ => asked.code(ResponseCode::NoError),
        })
        .await;
        let mut running = follow(DnsSource { min_ttl: Duration::from_secs(60), ..server.source() });
        let update = running.update().await;
        assert_eq!(update.endpoints.len(), if is_large { 600 } else { 1 });
        assert!(update.endpoints.iter().all(|endpoint| endpoint.address.ip() == Ipv4Addr::new(10, 0, 0, 1)));
    }
}

#[tokio::test]
async fn targets_are_looked_up_some_at_a_time() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    // Silent about all of them: a question is open until its time is over.
    let server = Server::start(move |asked| match asked.kind() {
        RecordType::SRV => {
            let mut reply = asked.reply((0..40).map(|n| srv(1, 1, &format!("t{n}.example"))).collect(), Vec::new());
            reply.answers.push(srv(1, 1, "known.example"));
            reply.additionals.push(at("known.example", "10.0.0.1"));
            sent(&reply)
        }
        _ => {
            seen.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Vec::new()
        }
    })
    .await;
    let _running = follow(DnsSource { timeout: PATIENCE, tcp: false, ..server.source() });
    server.until_asked(1 + 32).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(most.load(Ordering::SeqCst), 32, "16 targets, each with two questions");
}

#[tokio::test]
async fn addresses_of_a_name_are_instances_of_both_families() {
    let says = |v4: &'static [&'static str], v6: Option<&'static [&'static str]>| {
        move |asked: &Asked| {
            let ips = if asked.kind() == RecordType::A { v4 } else { v6.unwrap_or_default() };
            if asked.kind() == RecordType::AAAA && v6.is_none() {
                return asked.code(ResponseCode::ServFail);
            }
            sent(&asked.reply(ips.iter().map(|ip| at("tasks.web", ip)).collect(), Vec::new()))
        }
    };
    // A server that knows nothing of IPv6.
    let server = Server::start(says(&["10.0.0.2", "10.0.0.1"], None)).await;
    let records = DnsRecords::Addresses { port: 90 };
    let mut running = follow(DnsSource { name: "tasks.web".to_owned(), records, ..server.source() });
    assert_eq!(running.set().await, ["10.0.0.1:90 10.0.0.1:90 1 passing", "10.0.0.2:90 10.0.0.2:90 1 passing"]);
    server.say(says(&["10.0.0.1"], Some(&["fd00::1"])));
    let both = ["10.0.0.1:90 10.0.0.1:90 1 passing", "[fd00::1]:90 [fd00::1]:90 1 passing"];
    assert_eq!(running.set().await, both);
    // Once it has addresses of both, one family alone is no whole answer.
    server.say(says(&["10.0.0.1"], None));
    let view = running.status(|view| view.error.is_some()).await;
    assert_eq!(view.error.unwrap().1, "server_failure");
    assert_eq!(shown(&running.update().await), both);
    server.say(says(&[], Some(&[])));
    running.status(|view| view.errors.contains_key("empty")).await;
    server.say(says(&["0.0.0.0"], Some(&[])));
    running.status(|view| view.errors.contains_key("invalid")).await;
}

#[tokio::test]
async fn a_server_that_does_not_know_edns_is_asked_without_it() {
    let server = Server::start(|asked| match asked.message.edns {
        Some(_) => asked.code(ResponseCode::FormErr),
        None => sent(&two(asked)),
    })
    .await;
    assert_eq!(follow(server.source()).set().await, TWO);
}

#[tokio::test]
async fn an_answer_is_used_as_long_as_it_holds_within_the_bounds() {
    let long =
        |asked: &Asked| sent(&asked.reply(vec![srv_for(3600, 1, 1, "a.example")], vec![at("a.example", "10.0.0.1")]));
    let server = Server::start(long).await;
    // The address holds for no time; the bound from below counts.
    let patient =
        DnsSource { min_ttl: Duration::from_secs(3600), max_ttl: Duration::from_secs(7200), ..server.source() };
    let mut running = follow(patient);
    running.set().await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(server.asked().len(), 1);
    drop(running);
    // And that from above.
    let _running = follow(DnsSource { max_ttl: Duration::from_millis(10), ..server.source() });
    server.until_asked(5).await;
}

#[tokio::test]
async fn answers_of_which_none_can_be_used_are_no_empty_set() {
    let server = Server::start(|asked| match asked.kind() {
        RecordType::SRV => sent(&asked.reply(vec![srv(1, 1, "a.example")], Vec::new())),
        _ => asked.code(ResponseCode::NXDomain),
    })
    .await;
    let mut running = follow(DnsSource { hold: Duration::ZERO, ..server.source() });
    let view = running.status(|view| view.error.is_some()).await;
    let (_, kind, text) = view.error.unwrap();
    assert_eq!(
        (kind, &*text),
        ("invalid", "none of 1 answers can be used, such as a.example:80: a.example has no address")
    );
    assert!(running.updates.try_recv().is_err());
}
