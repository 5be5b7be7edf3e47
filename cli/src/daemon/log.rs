//! The change log that the plan names, opened for readers and appliers.

use modshift_changelog::{
    AnyReader, AnyWriter, DirectLog, KafkaReader, KafkaWriter, LogError, Offset, ensure_topic,
};
use modshift_proto::plan::{KafkaLog, Log, Plan};
use modshift_proto::{NewShard, OldShard};

/// A handle that every stream clones.
#[derive(Clone)]
pub enum ChangeLog {
    Direct(DirectLog),
    Kafka { log: KafkaLog, new_shards: u16, group: String },
}

impl ChangeLog {
    /// Kafka: creates the topic, or checks the one that is there.
    pub async fn open(plan: &Plan) -> Result<ChangeLog, LogError> {
        let new_shards = plan.new_modulus.get();
        match &plan.log {
            Log::Direct { buffer_bytes } => {
                let old_shards = plan.old_modulus.get();
                Ok(ChangeLog::Direct(DirectLog::new(old_shards, new_shards, *buffer_bytes)))
            }
            Log::Kafka(log) => {
                ensure_topic(log, new_shards).await?;
                let group = format!("modshift.{}", plan.name);
                Ok(ChangeLog::Kafka { log: log.clone(), new_shards, group })
            }
        }
    }

    pub async fn writer(self, source: OldShard, epoch: u64) -> Result<AnyWriter, LogError> {
        match self {
            ChangeLog::Direct(log) => Ok(AnyWriter::Direct(log.writer(source, epoch))),
            ChangeLog::Kafka { log, new_shards, .. } => {
                Ok(AnyWriter::Kafka(KafkaWriter::open(&log, source, new_shards).await?))
            }
        }
    }

    pub async fn reader(self, to: NewShard, from: Option<Offset>) -> Result<AnyReader, LogError> {
        match self {
            ChangeLog::Direct(log) => Ok(AnyReader::Direct(log.reader(to)?)),
            ChangeLog::Kafka { log, group, .. } => {
                Ok(AnyReader::Kafka(KafkaReader::open(&log, to, from, &group).await?))
            }
        }
    }
}
