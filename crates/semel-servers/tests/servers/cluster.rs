use semel_servers::{RedisCluster, until};

#[test]
fn a_replica_takes_the_place_of_a_primary_and_slots_move() {
    let cluster = RedisCluster::start().unwrap();
    assert_eq!(cluster.urls().len(), 6);
    // In the first third of the slots.
    let key = "b";
    assert_eq!(cluster.primary(0).cli(&["SET", key, "value"]).unwrap(), "OK");
    assert!(cluster.primary(1).cli(&["GET", key]).unwrap_err().to_string().contains("MOVED"));
    until(|| cluster.replica(0).unwrap().cli(&["DBSIZE"]).unwrap() == "1").unwrap();

    let killed = cluster.primary(0).port();
    cluster.kill_primary(0);
    cluster.wait_failover(0).unwrap();
    assert_ne!(cluster.primary(0).port(), killed);
    assert_eq!(cluster.primary(0).cli(&["GET", key]).unwrap(), "value");
    cluster.start_again(0).unwrap();
    assert_eq!(cluster.replica(0).unwrap().port(), killed);
    cluster.fail_over(0).unwrap();
    assert_eq!(cluster.primary(0).port(), killed);

    // Slots move from the lowest up.
    let slot: usize = cluster.primary(0).cli(&["CLUSTER", "KEYSLOT", key]).unwrap().parse().unwrap();
    cluster.reshard(slot + 1, 0, 2).unwrap();
    assert_eq!(cluster.primary(2).cli(&["GET", key]).unwrap(), "value");
    assert!(cluster.primary(0).cli(&["GET", key]).unwrap_err().to_string().contains("MOVED"));
}
