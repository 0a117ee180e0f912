"""The hosts that these tests are made of."""

from cluster.hosts import wait_until

REACHED = "yes\n"


def test_hosts_reach_each_other_until_one_is_cut_off_and_nothing_runs_on_after_its_power_is_gone(network):
    first, second = network.hosts
    ssh = network.serve_ssh()

    def reaches(seconds: int) -> str:
        return first.run(["sh", "-c", f"timeout {seconds} {ssh} {second.name} echo yes"]).stdout

    assert first.run(["hostname"]).stdout == "node1\n"
    assert reaches(30) == REACHED
    second.cut()
    assert reaches(2) == ""
    second.mend()
    wait_until(lambda: reaches(5) == REACHED)
    with second.start(["sleep", "300"]) as sleeping:
        second.kill_all()
        assert sleeping.wait() != 0
    assert second.processes() == []
