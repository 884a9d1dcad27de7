"""The files for `ray up`: Ray's own check, who may do what, and how hosts find their group."""

import subprocess

import pytest
from cluster_profiles import CLOUDS, documents, manifests


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"scaling__autoscale": False}, {"security__token": False, "ray__dashboard": "cluster"},
     {"storage__nfs": "10.0.0.9:/export", "environment": {"A": "it's"}}],
)  # fmt: skip
def test_what_ray_up_reads_passes_rays_own_check(kind, changes):
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(manifests(kind, **changes)["cluster.yaml"])
    validate_config(prepare_config(config))


def test_rays_own_check_would_find_a_misspelt_key():
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(manifests("aws")["cluster.yaml"])
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config({**config, "max_worker": 1}))


@pytest.mark.parametrize("kind", CLOUDS)
def test_machines_take_commands_only_with_a_token_and_show_the_dashboard_to_nobody(kind):
    (config,) = documents(manifests(kind)["cluster.yaml"])
    starts = [command for role in ("head", "worker") for command in config[f"{role}_start_ray_commands"][1:]]
    assert len(starts) == 2
    assert all("export RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for option in ("--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=1000:1000"):
        assert option in config.get("docker", {"run_options": [option]})["run_options"]


def test_machines_of_aws_hand_their_role_only_to_who_may_have_it():
    (config,) = documents(manifests("aws")["cluster.yaml"])
    nodes = {name: kind["node_config"] for name, kind in config["available_node_types"].items()}
    assert {node["MetadataOptions"]["HttpTokens"] for node in nodes.values()} == {"required"}
    assert nodes["head"]["IamInstanceProfile"] != nodes["gpu"]["IamInstanceProfile"]
    assert all(node["SecurityGroupIds"] == ["sg-0123456789abcdef0"] for node in nodes.values())


@pytest.mark.parametrize("host", ["10.0.0.11", "10.0.0.20", "10.0.0.99", "110.0.0.11"])
def test_every_host_of_ones_own_starts_as_its_group(tmp_path, host):
    (config,) = documents(manifests("onprem", image__bin=str(tmp_path))["cluster.yaml"])
    (tmp_path / "ray").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "hostname").write_text(f"#!/bin/sh\necho 172.17.0.1 {host}\n")
    for name in ("ray", "hostname"):
        (tmp_path / name).chmod(0o755)
    command = config["worker_start_ray_commands"][1]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RAY_HEAD_IP": "10.0.0.10"}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    options = done.stdout.splitlines()
    if host == "10.0.0.20":
        assert {"--labels=defectnas/device=jetson", '--resources={"latency_slot": 1}'} <= set(options)
    elif host == "10.0.0.11":
        assert {"--labels=defectnas/device=rtx3090", "--num-gpus=2", "--address=10.0.0.10:6379"} <= set(options)
    else:
        assert (done.returncode, options) == (1, [])
