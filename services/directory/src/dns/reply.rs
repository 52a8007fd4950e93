//! One message in, one message out.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{
    DEFAULT_MAX_PAYLOAD_LEN, Edns, Header, Message, MessageType, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::rdata::{HINFO, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::pool::{PoolName, Region};
use mirrorlog_core::time::Timestamp;

use super::pools::{Edition, Members, Pools, draw};
use super::zone::{Owner, Zone};
use crate::config::DnsSection;
use crate::gauges::Gauges;
use crate::site::Site;

/// Longest answer over UDP to whoever says nothing of sizes (RFC 1035, 4.2.1), in bytes.
const PLAIN_MAX: u16 = 512;

/// How a message came, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Udp,
    /// UDP, from where too much is asked, or only said to be: whose address it is nobody knows. The answer is no longer
    /// than the question and says to come by TCP, which nobody can who lied about the address.
    Brief,
    Tcp,
}

/// Answers messages.
pub(super) struct Desk {
    zone: Zone,
    site: Arc<Site>,
    pools: Pools,
    gauges: Gauges,
}

/// One moment, for the whole of an answer.
struct Moment<'a> {
    view: &'a View,
    edition: Edition,
    now: Timestamp,
    from: IpAddr,
}

impl Desk {
    pub(super) fn new(zone: Zone, section: &DnsSection, site: Arc<Site>, gauges: Gauges) -> Self {
        let pools = Pools::new(Arc::clone(&site), section.channels.clone(), section.port);
        Self {
            zone,
            site,
            pools,
            gauges,
        }
    }

    /// The answer to a message; none to what is no question at all.
    pub(super) fn answer(
        &self,
        bytes: &[u8],
        from: IpAddr,
        carrier: Carrier,
        now: Timestamp,
    ) -> Option<Vec<u8>> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).ok()?;
        // An answer to an answer might be answered.
        if header.message_type == MessageType::Response {
            return None;
        }
        let mut reply = Message::response(header.id, header.op_code);
        reply.metadata.recursion_desired = header.recursion_desired;
        let mut size_max = match carrier {
            Carrier::Udp | Carrier::Brief => PLAIN_MAX,
            Carrier::Tcp => u16::MAX,
        };
        match question(bytes, &header) {
            Ok((query, _)) if carrier == Carrier::Brief => {
                reply.add_query(query);
                reply.metadata.truncation = true;
            }
            Ok((query, edns)) => {
                if let (Carrier::Udp, Some(edns)) = (carrier, &edns) {
                    size_max = edns.max_payload().clamp(PLAIN_MAX, DEFAULT_MAX_PAYLOAD_LEN);
                }
                self.fill(&mut reply, query, edns.as_ref(), from, now);
            }
            Err(code) => reply.metadata.response_code = code,
        }
        self.gauges.answered("dns", outcome(&reply));
        fit(reply, usize::from(size_max))
    }

    fn fill(
        &self,
        reply: &mut Message,
        query: Query,
        edns: Option<&Edns>,
        from: IpAddr,
        now: Timestamp,
    ) {
        if let Some(edns) = edns {
            let mut ours = Edns::new();
            ours.set_max_payload(DEFAULT_MAX_PAYLOAD_LEN);
            reply.set_edns(ours);
            if edns.version() > 0 {
                reply.metadata.response_code = ResponseCode::BADVERS;
                reply.add_query(query);
                return;
            }
        }
        let copying = [RecordType::AXFR, RecordType::IXFR].contains(&query.query_type);
        let ours = query.query_class == DNSClass::IN && self.zone.contains(&query.name);
        if copying || !ours {
            reply.metadata.response_code = ResponseCode::Refused;
            reply.add_query(query);
            return;
        }
        let view = self.site.view();
        let moment = Moment {
            view: &view,
            edition: self.pools.edition(&view, now),
            now,
            from,
        };
        reply.metadata.authoritative = true;
        match self.zone.owner(&query.name, &view) {
            Some(owner) => self.look_up(reply, &query, &owner, &moment),
            None => reply.metadata.response_code = ResponseCode::NXDomain,
        }
        if reply.answers.is_empty() {
            reply.add_authority(self.zone.nothing(moment.edition, now));
        }
        reply.add_query(query);
    }

    /// What a name has of a type; maybe nothing.
    fn look_up(&self, reply: &mut Message, query: &Query, owner: &Owner, moment: &Moment<'_>) {
        let (name, wanted) = (&query.name, query.query_type);
        let apex = *owner == Owner::Apex;
        if wanted == RecordType::ANY && *owner != Owner::Between {
            // Less than all, so that nobody is flooded by it (RFC 8482, 4.2).
            let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
            reply.add_answer(self.pooled(name, RData::HINFO(hinfo)));
        } else if wanted == RecordType::SOA && apex {
            reply.add_answer(self.zone.soa(moment.edition, moment.now));
        } else if wanted == RecordType::NS && apex {
            reply.add_answers(self.zone.ns());
            reply.add_additionals(self.zone.glue());
        } else if [RecordType::A, RecordType::AAAA].contains(&wanted) {
            reply.add_answers(self.addresses(name, wanted, owner, moment));
        } else if wanted == RecordType::TXT
            && let Some(members) = self.members(owner, moment)
            && !members.builds.is_empty()
        {
            let txt = TXT::new(members.builds.clone());
            reply.add_answer(self.pooled(name, RData::TXT(txt)));
        }
    }

    fn addresses(
        &self,
        name: &Name,
        wanted: RecordType,
        owner: &Owner,
        moment: &Moment<'_>,
    ) -> Vec<Record> {
        if *owner == Owner::Server {
            let all = self.zone.server(name);
            return all
                .filter(|record| record.record_type() == wanted)
                .collect();
        }
        let Some(members) = self.members(owner, moment) else {
            return Vec::new();
        };
        let side = if wanted == RecordType::A {
            &members.v4
        } else {
            &members.v6
        };
        let drawn = draw(side, moment.view, random()).into_iter();
        drawn
            .map(|address| self.pooled(name, RData::from(address)))
            .collect()
    }

    fn members(&self, owner: &Owner, moment: &Moment<'_>) -> Option<Arc<Members>> {
        let near = PoolName {
            part: None,
            region: Region::Near,
        };
        let name = match owner {
            Owner::Apex => &near,
            Owner::Pool(name) => name,
            Owner::Server | Owner::Between => return None,
        };
        let Moment { view, edition, .. } = *moment;
        let place = self.site.place(Some(moment.from), None);
        Some(self.pools.of(view, edition, name, &place, moment.now))
    }

    /// A record of a pool, under the name that was asked for, in its case.
    fn pooled(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.zone.ttl_s(), data)
    }
}

/// The one question of a message, and what its sender says of itself.
fn question(bytes: &[u8], header: &Header) -> Result<(Query, Option<Edns>), ResponseCode> {
    if header.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if header.counts.queries != 1 {
        return Err(ResponseCode::FormErr);
    }
    let mut message = Message::from_vec(bytes).map_err(|_broken| ResponseCode::FormErr)?;
    let query = message.queries.pop().ok_or(ResponseCode::FormErr)?;
    Ok((query, message.edns))
}

/// How an answer is counted.
fn outcome(reply: &Message) -> &'static str {
    let code = reply.metadata.response_code;
    if ![ResponseCode::NoError, ResponseCode::NXDomain].contains(&code) {
        "refused"
    } else if reply.answers.is_empty() {
        "absent"
    } else {
        "ok"
    }
}

/// Writes an answer. What does not fit goes without its extras, else only says that TCP has the whole.
fn fit(mut reply: Message, size_max: usize) -> Option<Vec<u8>> {
    let fits = |reply: &Message| reply.to_vec().ok().filter(|bytes| bytes.len() <= size_max);
    if let Some(bytes) = fits(&reply) {
        return Some(bytes);
    }
    reply.additionals.clear();
    fits(&reply).or_else(|| fits(&reply.truncate()))
}

/// A random number; from the hashers' keys when the system has none to give.
fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| RandomState::new().hash_one(0))
}
