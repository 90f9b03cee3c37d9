//! PURE. Questions and answers of DNS as bytes, and what of an answer matters here. The only place that knows `hickory_proto`.

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

/// What an answer over UDP may have; larger packets are cut to pieces on some networks.
const LARGEST_UDP: u16 = 1232;

/// A compressed name leads at most so far into a message. In a larger one dnsmasq (2.90) has names in additional records that
/// lead elsewhere, perhaps to those of others.
const FARTHEST_NAME: usize = 0x3fff;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Srv,
    Ipv4,
    Ipv6,
}

/// A question with its number.
pub(super) struct Question {
    query: Query,
    id: u16,
}

/// An answer, whole and to the question.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: ReplyCode,
    /// About the name, and about the names that it is another name of.
    pub(super) answers: Vec<Answer>,
    pub(super) additionals: Vec<Answer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReplyCode {
    Good,
    NoSuchName,
    /// It does not understand the question; perhaps because it does not know EDNS.
    NotUnderstood,
    /// The server can't or does not want to; in the words of DNS.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Lower-case, without the dot at its end.
    pub(super) name: String,
    /// Seconds.
    pub(super) ttl: u32,
    pub(super) data: AnswerData,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AnswerData {
    /// The target is empty where there is no service.
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: String,
    },
    Address(IpAddr),
    /// It is another name of something. What that leads to is among the answers.
    Alias,
}

/// What is in a packet.
#[derive(Debug)]
pub(super) enum Packet {
    /// Not an answer to the question, and why.
    Other(String),
    Truncated,
    Reply(Reply),
}

impl Question {
    /// `None` = no name that can be asked for.
    pub(super) fn new(name: &str, asked: Asked) -> Option<Self> {
        let mut name = Name::from_ascii(name).ok()?;
        name.set_fqdn(true);
        let kind = match asked {
            Asked::Srv => RecordType::SRV,
            Asked::Ipv4 => RecordType::A,
            Asked::Ipv6 => RecordType::AAAA,
        };
        // A number that can't be guessed comes with the message.
        Some(Self { query: Query::query(name, kind), id: Message::query().metadata.id })
    }

    pub(super) fn bytes(&self, with_edns: bool) -> Result<Vec<u8>, String> {
        let mut message = Message::new(self.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        if with_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST_UDP);
            message.set_edns(edns);
        }
        message.to_vec().map_err(|error| error.to_string())
    }

    /// What a packet is to this question.
    pub(super) fn packet(&self, bytes: &[u8]) -> Packet {
        self.read(bytes).unwrap_or_else(|error| Packet::Other(format!("an answer that can't be read: {error}")))
    }

    fn read(&self, bytes: &[u8]) -> Result<Packet, ProtoError> {
        let mut decoder = BinDecoder::new(bytes);
        let Header { metadata, counts } = Header::read(&mut decoder)?;
        let is_answer = metadata.message_type == MessageType::Response && metadata.op_code == OpCode::Query;
        if !is_answer || metadata.id != self.id {
            return Ok(Packet::Other("an answer to another question".to_owned()));
        }
        // Before what it was cut in.
        if metadata.truncation {
            return Ok(Packet::Truncated);
        }
        let queries = Message::read_queries(&mut decoder, counts.queries.into())?;
        let code = code(metadata.response_code);
        // Some servers that do not understand a question do not repeat it either.
        let is_repeated = match &queries[..] {
            [] => !matches!(code, ReplyCode::Good | ReplyCode::NoSuchName),
            [query] => *query == self.query,
            _ => false,
        };
        if !is_repeated {
            return Ok(Packet::Other("an answer to another question".to_owned()));
        }
        let records = |decoder: &mut BinDecoder<'_>, count: u16, is_additional| {
            let (records, ..) = Message::read_records(decoder, count.into(), is_additional, OpCode::Query)?;
            Ok::<_, DecodeError>(records)
        };
        let answers = about(self.query.name(), &records(&mut decoder, counts.answers, false)?);
        // What follows can be done without, so that a fault in it is none of the answer.
        let extra = records(&mut decoder, counts.authorities, false)
            .and_then(|_| records(&mut decoder, counts.additionals, true))
            .ok()
            .filter(|_| bytes.len() <= FARTHEST_NAME);
        let additionals = extra.iter().flatten().filter_map(answer).collect();
        Ok(Packet::Reply(Reply { code, answers, additionals }))
    }
}

fn code(code: ResponseCode) -> ReplyCode {
    match code {
        ResponseCode::NoError => ReplyCode::Good,
        ResponseCode::NXDomain => ReplyCode::NoSuchName,
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => ReplyCode::NotUnderstood,
        other => ReplyCode::Failed(other.to_str().to_owned()),
    }
}

/// Those about the name, and about what it leads to.
fn about(name: &Name, records: &[Record]) -> Vec<Answer> {
    let mut names = vec![name];
    // Each alias leads on by one name at most, and a circle ends.
    for _ in 0..records.len() {
        let alias = records.iter().find_map(|record| match &record.data {
            RData::CNAME(to) if names.contains(&&record.name) && !names.contains(&&to.0) => Some(&to.0),
            _ => None,
        });
        let Some(to) = alias else { break };
        names.push(to);
    }
    records.iter().filter(|record| names.contains(&&record.name)).filter_map(answer).collect()
}

fn answer(record: &Record) -> Option<Answer> {
    if record.dns_class != DNSClass::IN {
        return None;
    }
    let data = match &record.data {
        RData::A(address) => AnswerData::Address(address.0.into()),
        RData::AAAA(address) => AnswerData::Address(address.0.into()),
        RData::SRV(srv) => {
            AnswerData::Srv { priority: srv.priority, weight: srv.weight, port: srv.port, target: text(&srv.target) }
        }
        RData::CNAME(_) => AnswerData::Alias,
        _ => return None,
    };
    Some(Answer { name: text(&record.name), ttl: record.ttl, data })
}

fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}
