//! What the tests share: the catalogue of calls, and plans of it that cover the specialisations.
#![expect(dead_code, reason = "each test binary uses a part of this")]

pub mod catalogue;
pub mod covering;
pub mod own;
pub mod values;

use std::sync::LazyLock;

use catalogue::{Call, EXTENTS, Extents, Output, Space, Types, Walk};
use covering::Row;
use serde_json::json;
use surprisal::{
    Arrays, Cooperative, Dtype, Error, Layout, Plan, Profile, Tile, TileLoads, cooperative::Side,
    operations,
};

/// Profiles that differ in values that change the code.
pub fn profiles() -> Vec<Profile> {
    vec![Profile::default(), Profile::default().software(8)]
}

/// Profiles whose score tiles use cooperative matrices of every kind, whatever the size of the product.
pub fn cooperative_profiles() -> Vec<Profile> {
    let sides = [Side::Eight, Side::Sixteen];
    let kinds = sides.into_iter().flat_map(|side| [(side, false), (side, true)]);
    let profile = |(side, emulated)| Profile {
        large_products: 0,
        cooperative: Cooperative { f16: Some(side), f32: Some(side), lanes: 32, emulated },
        ..Profile::default()
    };
    kinds.map(profile).collect()
}

/// Profiles of large score tiles that load operands in every way, in words of 32 and of 64 bits.
pub fn tile_profiles() -> Vec<Profile> {
    [
        (TileLoads::Lane, 8, 8, 48, 4, false),
        (TileLoads::Lane, 8, 8, 24, 2, true),
        (TileLoads::Four, 8, 8, 24, 4, false),
        (TileLoads::Eight, 8, 8, 48, 4, false),
        (TileLoads::Eight, 8, 8, 48, 4, true),
        (TileLoads::Workgroup, 128, 16, 8, 2, false),
        (TileLoads::Workgroup, 16, 4, 24, 1, true),
    ]
    .map(|(loads, lanes, across, rows, bands, wide)| {
        let tile = Tile { loads, lanes, across, rows, bands, wide };
        Profile { large_products: 0, tile, ..Profile::default() }
    })
    .to_vec()
}

/// The calls of the losses on score tiles.
static ON_TILES: LazyLock<Vec<(&str, Vec<Row>)>> = LazyLock::new(|| {
    let profile = Profile::default().software(8);
    let names = ["linear_cross_entropy", "info_nce"];
    names.map(|name| (name, space(name).cover(0, &profile).rows)).into()
});

fn space(name: &str) -> Space {
    Space::of(operations::find(name).unwrap(), Types::Each)
}

/// Plans of the losses on score tiles with such a profile.
pub fn tile_plans(profile: &Profile) -> Vec<Plan> {
    let plans = |(name, rows): &(&str, Vec<Row>)| {
        let space = space(name);
        let plan = |row: &Row| match space.planned(row, profile) {
            // More lanes may need more bytes.
            Err(Error::InvalidOption { option: "chunk_bytes", .. }) => None,
            planned => Some(planned.unwrap()),
        };
        rows.iter().filter_map(plan).collect::<Vec<_>>()
    };
    ON_TILES.iter().flat_map(plans).collect()
}

/// Plans of the catalogue, of every registered loss and of a user's own ones.
pub fn plans() -> &'static [Plan] {
    static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(|| {
        let users = |nth: usize| {
            let make = move || own::losses().swap_remove(nth);
            Space::of_one(make().about(), make)
        };
        let users = (0..own::losses().len()).map(users);
        let spaces: Vec<Space> = catalogue::spaces(Types::Each).chain(users).collect();
        let of = |profile: Profile| {
            let plans = spaces.iter().flat_map(|space| plans_of(space, &profile));
            plans.chain([many_rows(&profile)]).collect::<Vec<_>>()
        };
        profiles().into_iter().flat_map(of).collect()
    });
    &PLANS
}

/// Plans of the calls that cover an operation.
fn plans_of(space: &Space, profile: &Profile) -> Vec<Plan> {
    let rows = space.cover(0, profile).rows;
    rows.iter().map(|row| space.planned(row, profile).unwrap()).collect()
}

/// So many rows that their tallies are folded.
fn many_rows(profile: &Profile) -> Plan {
    let (rows, classes) = (1 << 22, 3);
    let inputs = [
        ("logits", Layout::matrix(Dtype::F32, rows, classes)),
        ("targets", Layout::vector(Dtype::I64, rows)),
    ];
    let outputs =
        [("loss", Layout::vector(Dtype::F32, 1)), ("status", Layout::vector(Dtype::U32, 8))];
    let call = Call {
        operation: "cross_entropy",
        options: json!({}),
        extents: Extents { rows, classes, ..EXTENTS[0] },
        inputs: inputs.into(),
        outputs: outputs.map(|(name, layout)| (name, Output { layout, over: None })).into(),
        host: Arrays::new(),
        walk: Walk::Quads,
    };
    let operation = (operations::find(call.operation).unwrap().default)();
    operation.plan(&call.checked(&*operation, profile).unwrap(), profile).unwrap()
}
