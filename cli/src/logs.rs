//! Log lines go to standard error, so that what a command answers stays alone on standard output.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::args::LogFormat;

/// Ours at INFO; the driver and the broker client only when something is wrong.
const DEFAULT_FILTER: &str = "warn,modshift=info,modshift_replicator=info,modshift_consumer=info,\
                              modshift_changelog=info,modshift_mariadb=info";

/// One-shot commands answer on standard output, and put what went wrong there too: no need to hear
/// of every connection that a Kafka client tries.
const COMMAND_FILTER: &str = "warn,modshift_changelog=error";

/// `MODSHIFT_LOG` takes a filter such as `modshift_consumer=debug`.
pub fn start(format: LogFormat, daemon: bool) {
    let default = if daemon { DEFAULT_FILTER } else { COMMAND_FILTER };
    let filter = std::env::var("MODSHIFT_LOG")
        .ok()
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(default));
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init()
        }
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
