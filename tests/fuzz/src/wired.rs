//! What travels as protobuf, and keys and signatures in signify's form.

use mirrorlog_core::limits::{
    EVENT_MAX_BYTES, INLINE_DELTA_MAX_BYTES, PEER_BUILDS_MAX, ROOT_MAX_BYTES, SIGNATURES_MAX,
};
use prost::Message as _;
use wire::directory::{DirectoryState, Feedback};
use wire::kv::{Numbering, decode_wanted, encode_wanted, parse_wanted_key, wanted_key};
use wire::peer::PeerNotice;
use wire::root::{SIGNED_ROOT_MAX_BYTES, SignedRoot};
use wire::statement::Kind;
use wire::{Event, Signed, rpc, signify, state, v1};

pub(crate) fn statement(data: &[u8]) {
    let Ok(said) = wire::statement::decode(data) else {
        return;
    };
    assert!(data.len() <= Kind::of(&said).max_bytes());
    assert_eq!(
        wire::statement::check(&said),
        Ok(()),
        "others accept what was accepted"
    );
    let written = wire::statement::encode(&said);
    assert_eq!(wire::statement::decode(&written), Ok(said));
}

/// A statement of one kind: its fields, in the frame that every statement has.
fn of_kind(field: u8, data: &[u8]) {
    let mut framed = vec![0x08, wire::statement::SCHEMA as u8, field << 3 | 2];
    prost::encoding::encode_varint(data.len() as u64, &mut framed);
    framed.extend_from_slice(data);
    statement(&framed);
}

pub(crate) fn snapshot(data: &[u8]) {
    of_kind(2, data);
}

pub(crate) fn head(data: &[u8]) {
    of_kind(3, data);
}

pub(crate) fn retraction(data: &[u8]) {
    of_kind(4, data);
}

pub(crate) fn report(data: &[u8]) {
    of_kind(5, data);
}

pub(crate) fn verdict(data: &[u8]) {
    of_kind(6, data);
}

pub(crate) fn order(data: &[u8]) {
    of_kind(7, data);
}

pub(crate) fn root(data: &[u8]) {
    of_kind(8, data);
    let Ok(root) = wire::statement::decode_root(data) else {
        return;
    };
    let unsigned = SignedRoot::new(&root).unwrap();
    assert_eq!(unsigned.statement, data, "one document, one spelling");
    assert!(
        data.len() <= ROOT_MAX_BYTES && unsigned.pin().is_err(),
        "nobody has signed it"
    );
}

pub(crate) fn signed_root(data: &[u8]) {
    if let Ok(signed) = SignedRoot::decode(data) {
        let written = signed.encode();
        assert!(
            written.len() <= SIGNED_ROOT_MAX_BYTES && signed.signatures.len() <= SIGNATURES_MAX
        );
        assert_eq!(SignedRoot::decode(&written).unwrap(), signed);
        root(&signed.statement);
    }
}

pub(crate) fn signed(data: &[u8]) {
    if let Ok(signed) = Signed::decode(data) {
        assert_eq!(Signed::decode(&signed.encode()).unwrap(), signed);
        assert_eq!(
            Signed::from_signify(&signed.to_signify("fuzz")).unwrap(),
            signed
        );
        statement(&signed.statement);
    }
}

pub(crate) fn event(data: &[u8]) {
    if let Ok(event) = Event::decode(data) {
        let written = event.encode();
        assert!(written.len() <= EVENT_MAX_BYTES);
        assert_eq!(Event::decode(&written).unwrap(), event);
        statement(&event.body.signed().statement);
    }
}

pub(crate) fn delta(data: &[u8]) {
    if let Ok(delta) = wire::delta::decode(data) {
        let written = wire::delta::encode(&delta);
        assert!(written.len() <= INLINE_DELTA_MAX_BYTES);
        assert_eq!(wire::delta::decode(&written).unwrap(), delta);
        assert!(delta.is_sorted_by(|a, b| a.path < b.path));
    }
}

pub(crate) fn peer_notice(data: &[u8]) {
    if let Ok(notice) = PeerNotice::decode(data) {
        assert_eq!(PeerNotice::decode(&notice.encode()).unwrap(), notice);
        assert!(notice.builds.len() <= PEER_BUILDS_MAX);
        if let Some(address) = &notice.fetch_address {
            assert!(
                !address.contains(['/', '@', '?', '#', ' ', '\n']),
                "it is no more than a host and a port"
            );
        }
    }
}

pub(crate) fn order_request(data: &[u8]) {
    if let Ok(request) = v1::OrderRequest::decode(data)
        && let Ok((mirror, kind)) = rpc::requested_order(request)
    {
        let again = rpc::requested_order(rpc::order_request(&mirror, &kind));
        assert_eq!(again, Ok((mirror, kind)));
    }
}

/// Keys and values of the buckets, which are all text.
pub(crate) fn kv(data: &[u8]) {
    if let Ok(numbering) = Numbering::decode(data) {
        assert_eq!(numbering.encode().as_bytes(), data);
    }
    if let Ok(wanted) = decode_wanted(data) {
        assert_eq!(encode_wanted(wanted).as_bytes(), data);
    }
    if let Ok(key) = std::str::from_utf8(data)
        && let Ok((channel, pool)) = parse_wanted_key(key)
    {
        assert_eq!(wanted_key(&channel, &pool), key);
    }
}

pub(crate) fn feedback_message(data: &[u8]) {
    if let Ok(feedback) = Feedback::decode(data) {
        let written = feedback.encode();
        let again = Feedback::decode(&written).unwrap();
        // Two speeds that are no numbers are not equal.
        assert_eq!(again.encode(), written);
        assert_eq!(
            (again.mirror, again.network),
            (feedback.mirror, feedback.network)
        );
    }
}

pub(crate) fn directory_state(data: &[u8]) {
    if let Ok(state) = DirectoryState::decode(data) {
        assert_eq!(DirectoryState::decode(&state.encode()).unwrap(), state);
    }
}

/// What a mirror remembers: a channel, a cursor, a view.
pub(crate) fn mirror_state(data: &[u8]) {
    if let Ok(channel) = state::decode_channel(data) {
        let written = state::encode_channel(&channel);
        assert_eq!(state::decode_channel(&written).unwrap(), channel);
        let is_held = |live| channel.held.contains_key(live);
        assert!(channel.live.as_ref().is_none_or(is_held));
    }
    if let Ok(cursor) = state::Cursor::decode(data) {
        assert_eq!(state::Cursor::decode(&cursor.encode()).unwrap(), cursor);
    }
    if let Ok(view) = state::decode_view(data) {
        assert_eq!(
            state::decode_view(&state::encode_view(&view)).unwrap(),
            view
        );
    }
}

pub(crate) fn signify_public(data: &[u8]) {
    if let Ok(key) = signify::parse_public(data) {
        let written = signify::print_public(&key, "fuzz");
        assert_eq!(signify::parse_public(written.as_bytes()).unwrap(), key);
    }
}

pub(crate) fn signify_secret(data: &[u8]) {
    if let Ok(key) = signify::parse_secret(data) {
        let written = signify::print_secret(&key, "fuzz");
        let again = signify::parse_secret(written.as_bytes()).unwrap();
        assert_eq!((again.seed(), again.public()), (key.seed(), key.public()));
    }
}

pub(crate) fn signify_signature(data: &[u8]) {
    if let Ok(signature) = signify::parse_signature(data) {
        let written = signify::print_signature(&signature, "fuzz");
        assert_eq!(
            signify::parse_signature(written.as_bytes()).unwrap(),
            signature
        );
    }
}

pub(crate) fn signify_embedded(data: &[u8]) {
    if let Ok((signature, message)) = signify::parse_embedded(data) {
        assert!(data.ends_with(message));
        let written = signify::print_embedded(&signature, message, "fuzz");
        assert_eq!(
            signify::parse_embedded(&written).unwrap(),
            (signature, message)
        );
        statement(message);
    }
}
