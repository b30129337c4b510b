//! Tests which load the machine and measure time: nothing runs beside them.

mod forged;
mod holds;
mod issuer_guard_cost;
mod patch_cost;
