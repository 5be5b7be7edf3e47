//! Routing: the document that says where a key's rows live, how modshift publishes it, and how an
//! application follows it.
//!
//! | module | turns | into |
//! |---|---|---|
//! | [`document`] | a plan, a side and a version | the document, and a key into its shard |
//! | `publish` (feature `publish`) | a document | an acknowledgement of each target, in order |
//! | `client` (feature `client`) | a source that is read again and again | the newest document |
//!
//! Versions only ever rise: a publisher refuses to put a lower one in the place of a higher, and a
//! client that has seen a version never goes back to one before it. A way back is a new version
//! with the old shards in it.

#[cfg(feature = "client")]
pub mod client;
pub mod document;
#[cfg(feature = "client")]
mod etcd;
#[cfg(feature = "client")]
mod http;
#[cfg(feature = "publish")]
pub mod publish;
// Not for applications: tests prepare with it what ShardingSphere would.
#[cfg(feature = "publish")]
#[doc(hidden)]
pub mod zookeeper;

#[cfg(feature = "client")]
pub use client::{ClientError, EtcdSource, Health, HttpSource, Intervals, Route, Router, Source};
pub use document::{Document, DocumentError, Key, RouteError, Server, Shard, Side, TableRule};
#[cfg(feature = "publish")]
pub use publish::{Ack, Failure, PublishError, Target, preview, publish};
