mod common_b;
use common_b::{Rig, Shape};
#[test]
fn t() {
    let rig = Rig::new(4 << 20);
    let map = rig.map(Shape::shared(0, 1024));
    assert_eq!(rig.read(&map, 5), Ok(0));
    println!("{:?} {:?} {:?} {:?}", rig.events(), rig.points.journal(), rig.entries(), map.table());
    rig.check(&[&map]);
}
