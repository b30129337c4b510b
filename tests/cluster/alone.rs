//! Tests which load the machine and measure time: nothing runs beside them.

mod claims;
mod forged;
mod holds;
mod installation;
mod issuer_faults;
mod issuer_flood;
mod issuer_guard_cost;
mod issuer_migration;
mod patch_cost;
mod sessions;
