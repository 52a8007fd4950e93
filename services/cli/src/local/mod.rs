//! A whole network on this machine, from one folder.
//!
//! | file | what |
//! | --- | --- |
//! | `plan` | who is in the network, and at which address; kept in the configurations |
//! | `ports` | drawn for the plan, held while the network lives |
//! | `children` | the processes: started, watched, stopped |
//! | `up` | `local up` |
//! | `demo` | `local demo` |

mod children;
mod demo;
mod plan;
mod ports;
mod secure;
mod up;

pub(crate) use demo::demo;
pub(crate) use up::up;
