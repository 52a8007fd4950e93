//! The numbers of `mirrorlog.v1.Fetcher` that both ends count with.

/// Metadata key that names the lane of a stream: `priority` or `bulk` (the default).
pub const LANE_METADATA: &str = "mirrorlog-lane";

/// Most data of one blob in one message, in bytes. The larger, the fewer changes of thread on both
/// sides; but what is under way should stay in the processor's caches.
pub const MESSAGE_DATA_MAX_BYTES: usize = 512 * 1024;
/// A message that several pages or blobs share ends with the one that reaches this, in bytes of data.
pub const MESSAGE_SHARED_BYTES: usize = 256 * 1024;
/// Most pieces in one message.
pub const MESSAGE_PIECES_MAX: usize = 64;
/// Largest encoded message either end accepts, in bytes; stops one message from filling memory.
pub const MESSAGE_MAX_BYTES: usize = 1024 * 1024;
/// Most wants in one message.
pub const MESSAGE_WANTS_MAX: usize = 4096;
/// Most unanswered wants of one stream; stops a client from filling the server's memory.
pub const OPEN_WANTS_MAX: usize = 16 * 1024;

/// What a piece costs in credit beside its data: an estimate of its framing, so that nothing is free.
pub const PIECE_COST_BYTES: u64 = 64;
/// A piece may be sent while any credit is left; this much of it may be overdrawn, in bytes.
pub const OVERDRAFT_MAX_BYTES: u64 = 64 * 1024;

/// HTTP/2 window of one stream, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// HTTP/2 window of one connection, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Largest HTTP/2 frame that the client accepts, in bytes. A message of several frames is decoded with less copying than
/// one of a single frame: what has come when its length is read is moved.
pub const FRAME_MAX_BYTES: u32 = 128 * 1024;

/// A client that has nothing to say says so this often, in seconds.
pub const KEEPALIVE_SECONDS: u64 = 30;
