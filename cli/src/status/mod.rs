//! `modshift status`: who serves, and how far every stream is. From the databases, and from the daemons
//! where they can be reached: which logins are refused to them, which streams halted before they had
//! begun, and who holds them back is written in no database.
//!
//! `found` is what was found, for machines and people; `brief` is what is read at a glance, with `lags`
//! as its matrix; `full` has each shard and stream on a line of its own.

mod brief;
mod found;
mod full;
mod lags;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use modshift_consumer::gate::{Evaluator, Outside};
use modshift_proto::plan::Plan;

use self::found::Status;
use crate::control::pages;
use crate::cutover::{Words, fences, serves};
use crate::exit::Exit;
use crate::tell::time_of_day;
use crate::terminal::Terminal;
use crate::{answer, args};

const REDRAW: Duration = Duration::from_secs(1);

pub async fn run(plan: Arc<Plan>, args: &args::Status) -> anyhow::Result<Exit> {
    let mut evaluator = Evaluator::new(plan.clone());
    let mut daemons = pages::Daemons::of(&plan);
    loop {
        // Tables are not compared here: the gate does that, and says so.
        let (decision, facts) = evaluator.sample(Outside::default()).await;
        let words = Words::of(&plan, &facts);
        let (serves, fences, said) =
            tokio::join!(serves(&plan, &words), fences(&plan), daemons.said());
        let mut status = Status::of(&plan, &decision, &facts, &said).with(serves, fences);
        status.drawn_at = args.watch.then(|| time_of_day(SystemTime::now()));
        // Anew each time: a window changes its size.
        let terminal = Terminal::stdout();
        let redraw = args.watch && terminal.size().is_some();
        match (args.json, args.verbose) {
            (true, _) => answer::last(serde_json::to_string(&status)?),
            (false, true) => drawn(redraw, &full::text(&status, terminal)),
            (false, false) => drawn(redraw, &brief::text(&status, terminal, args.watch)),
        }
        if !args.watch {
            return Ok(status.exit());
        }
        tokio::time::sleep(REDRAW).await;
    }
}

fn drawn(redraw: bool, text: &str) {
    match redraw {
        // Home, and clear what is left of each line and below: no flicker.
        true => {
            let lines = text.replace('\n', "\x1b[K\n");
            answer::part(format_args!("\x1b[H{lines}\x1b[K\x1b[J"));
        }
        false => answer::line(text),
    }
}
