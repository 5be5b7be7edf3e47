//! `modshift check`: each rule is seen to fire, with its statement; where the statement is SQL it is
//! run, and the rule is seen to be content.

mod case;
mod further;
mod grants;
mod mends;
mod promotion;
mod report;
mod rows;
mod servers;
mod tables;
mod text;
