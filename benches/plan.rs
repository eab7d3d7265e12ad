//! What one plan costs, by the size of the cluster: it is made again and again while something is going on.
//! `cargo bench --bench plan`; the bar is a millisecond at 1,000 contents.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use model::Policy;
use plan::plan;

#[path = "plan/world.rs"]
mod world;

fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    for contents in [100, 1_000, 4_000] {
        for down in [0, 5] {
            let world = world::of(contents, down);
            let name = if down == 0 { "healthy".to_owned() } else { format!("{down} % of mirrors down") };
            group.bench_function(BenchmarkId::new(name, contents), |bencher| {
                bencher.iter(|| plan(&Policy::default(), black_box(&world), world::now()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, plans);
criterion_main!(benches);
