//! Bulk jobs: queries whose rows go to the object store, made and followed over HTTP.
//!
//! A tenant has a queue ([`store`]): the jobs that are open, those that wait for their turn, first come first, and
//! those that run. A change of a job's state and of its tenant's queue is one transaction, which holds only when
//! neither has changed since it was read; so no more jobs run than may, and a state is never left twice.
//!
//! A run is one attempt at a job. It holds a lease, which it prolongs; a job whose lease has ended may be taken over
//! by another run. Every run writes objects of its own, and only the run that the job names may end it: a run that was
//! taken over, or whose job was aborted, ends nothing.
//!
//! | Module | What lives there |
//! |---|---|
//! | [`state`] | the states, and which may follow which |
//! | [`job`] | a job, and how it is stored |
//! | [`queue`] | which jobs of a tenant have not ended |
//! | [`store`] | finding and changing jobs |

pub mod job;
pub mod queue;
pub mod state;
pub mod store;

pub use job::{
    BulkFailure, BulkJob, BulkResult, FailureCode, JobProgress, JobRun, NewBulkJob, Operation, QueryRequest,
};
pub use queue::TenantQueue;
pub use state::BulkState;
pub use store::{Admission, BulkFilter, BulkJobs, BulkPage, Claim, ClaimedBy, JobEnd};
