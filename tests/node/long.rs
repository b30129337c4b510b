//! Tests which take ten minutes: `make e2e-long`, and not `make e2e`.

mod promised;
mod rollout;
mod wrong_installs;
