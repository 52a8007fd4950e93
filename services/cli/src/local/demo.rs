//! `local demo`.
use crate::args::DemoArgs;
use crate::failure::Failure;
use crate::output::Output;
pub(crate) async fn demo(_args: &DemoArgs, _output: &Output) -> Result<u8, Failure> {
    todo!()
}
