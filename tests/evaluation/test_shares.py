import json
import re
from collections import Counter
from itertools import chain

import processes
import pytest
import shared_children
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torchmetrics import Metric

from lightning_lemonade.evaluation.shares import MeasuringShare, TrainingShare, equal_share, own_share, with_share
from lightning_lemonade.evaluation.syncing import can_be_shared
from lightning_lemonade.module import LemonadeModule, Training

batches = st.lists(st.integers(), min_size=1, max_size=40, unique=True)
worlds = st.integers(1, 9)


def flat(lists):
    return list(chain.from_iterable(lists))


@given(batches, worlds)
def test_shares_to_train_on_are_the_batch_and_equally_long(batch, ranks):
    shares = [equal_share(batch, rank, ranks) for rank in range(ranks)]
    assert set().union(*shares) == set(batch)
    assert len(set(map(len, shares))) == 1
    assert all(len(share) >= min(2, len(batch)) for share in shares)
    assert all(len(set(share)) == len(share) for share in shares)
    if len(batch) % ranks == 0 and len(batch) >= 2 * ranks:
        assert flat(shares) == batch


@given(batches, worlds)
def test_shares_to_measure_are_the_batch_and_no_sample_twice(batch, ranks):
    shares = [own_share(batch, rank, ranks) for rank in range(ranks)]
    assert sorted(flat(shares)) == sorted(batch)
    assert [len(share) for share in shares] == sorted(map(len, shares), reverse=True)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def on_rank(share, rank, ranks):
    share.rank, share.ranks = rank, ranks
    return share


@given(st.integers(1, 30), st.integers(1, 12), worlds, st.integers(0, 2**31))
def test_an_epoch_is_the_same_on_all_ranks_and_another_one_is_not(samples, size, ranks, seed):
    def shares_of(rank):
        torch.manual_seed(rank)  # each has its own global generator
        return on_rank(TrainingShare(BatchSampler(RandomSampler(range(samples)), size, False), seed), rank, ranks)

    shares = [shares_of(rank) for rank in range(ranks)]
    for _ in range(2):
        epoch = [list(share) for share in shares]
        assert {len(of_rank) for of_rank in epoch} == {len(shares[0])}
        seen = [set().union(*of_batch) for of_batch in zip(*epoch, strict=True)]
        assert Counter(number for batch in seen for number in batch) == Counter(range(samples))
        assert all(share.sizes == [len(batch) for batch in seen] for share in shares)
        assert sum(shares[0].whole(number, len(part)) for number, part in enumerate(epoch[0])) == samples


def test_epochs_differ_and_the_global_generator_is_left_alone():
    share = TrainingShare(BatchSampler(RandomSampler(range(20)), 4, False), 0)
    before = torch.get_rng_state()
    first, second = list(share), list(share)
    assert first != second
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_with_a_share_is_another_one():
    loader = DataLoader(range(10), batch_size=4)
    twin = with_share(loader, TrainingShare(loader.batch_sampler, 0))
    assert [batch.tolist() for batch in twin] == [batch.tolist() for batch in loader]
    assert isinstance(loader.batch_sampler, BatchSampler)


def test_a_rank_knows_how_many_batches_all_have():
    shares = [MeasuringShare([[0, 1, 2], [3], [4, 5]], 0) for _ in range(2)]
    assert [share.common for share in shares] == [3, 3]  # on one process


class AtTheEnd(LemonadeModule):
    def on_validation_batch_end(self, *_):
        self.log("val_time", 0.0)


@pytest.mark.parametrize(
    ("module", "shared"),
    [(LemonadeModule, True), (shared_children.Counting, True), (shared_children.Logging, False), (AtTheEnd, False)],
)
def test_a_validation_is_shared_where_torchmetrics_put_it_together(module, shared):
    assert can_be_shared(module(shared_children.SPEC, Training())) == shared


def test_a_metric_that_is_a_mean_of_means_is_not_shared():
    module = shared_children.Counting(shared_children.SPEC, Training())
    module.validation_metrics["wrong"].add_state("mean", torch.tensor(0.0), dist_reduce_fx="mean")
    assert not can_be_shared(module)


class Undeclared(Metric):
    def update(self, logits, target):
        self.seen = getattr(self, "seen", 0) + len(target)

    def compute(self):
        return torch.tensor(float(self.seen))


def test_a_metric_that_keeps_its_state_to_itself_is_not_shared():
    class Own(LemonadeModule):
        def metrics(self):
            return {"seen": Undeclared()}

    assert not can_be_shared(Own(shared_children.SPEC, Training()))


def test_synchronised_batch_norms_keep_names_and_values():
    module = LemonadeModule(shared_children.SPEC, Training()).eval()
    state, x = {name: tensor.clone() for name, tensor in module.state_dict().items()}, torch.rand(2, 1, 8, 8)
    before = module(x)
    there = TorchSyncBatchNorm().apply(module)
    assert any(isinstance(part, torch.nn.SyncBatchNorm) for part in there.network.modules())
    assert there.network.state_dict().keys() == {name.removeprefix("network.") for name in state if name.startswith("network.")}
    back = TorchSyncBatchNorm().revert(there)
    assert back.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())
    assert torch.equal(back.eval()(x), before)  # Lightning makes the modules anew, in train mode


@pytest.fixture(scope="module")
def two_ranks():
    found = []
    for done in processes.run_ranks(shared_children.__file__):
        assert done.returncode == 0, done.stderr[-3000:]
        found += [json.loads(line.removeprefix("result ")) for line in done.stdout.splitlines() if line.startswith("result ")]
    assert [one["rank"] for one in found] == [0, 1]
    return found


@pytest.fixture(scope="module")
def one_process():
    torch.set_num_threads(1)
    return json.loads(json.dumps(shared_children.results({"accelerator": "cpu"})))


@pytest.mark.parametrize("name", ["plain", "logging", "one", "several", "stream", "shuffled"])
def test_two_ranks_count_each_sample_of_validation_once(two_ranks, one_process, name):
    assert one_process[name]["val_wrong"] == int(one_process[name]["val_wrong"]) > 0
    for found in two_ranks:
        assert found[name] == pytest.approx(one_process[name], abs=1e-6)


@pytest.mark.parametrize("name", ["shuffle", "dropped", "workers", "weighted", "batches"])
def test_two_ranks_train_on_the_batches_of_one_device(two_ranks, one_process, name):
    first, second = (found[name] for found in two_ranks)
    alone = one_process[name]
    assert first["failure"] is second["failure"] is alone["failure"] is None
    assert first["images"] == second["images"] == alone["images"] > 0
    assert first["steps"] == second["steps"] == alone["steps"]
    assert len(first["trained_on"]) == len(second["trained_on"]) == len(alone["trained_on"])
    if name == "weighted":
        assert set(flat(first["trained_on"] + second["trained_on"])) <= set(range(5))
        return
    epoch = len(alone["trained_on"]) // 2
    sizes = [len(set(mine) | set(others)) for mine, others in zip(first["trained_on"], second["trained_on"], strict=True)]
    assert sizes == [len(batch) for batch in alone["trained_on"]]
    seen = [set(flat(found["trained_on"][:epoch])) for found in (first, second)]
    if name != "dropped":
        assert seen[0] | seen[1] == set(flat(alone["trained_on"][:epoch]))


def test_ranks_draw_apart_and_epochs_are_shuffled_anew(two_ranks):
    first, second = (found["shuffle"] for found in two_ranks)
    assert first["draw"] != second["draw"]
    assert first["trained_on"][:4] != first["trained_on"][4:]


def test_a_child_that_takes_too_long_in_validation_fails_on_all_ranks(two_ranks):
    assert [found["slow"] for found in two_ranks] == [["time_limit", "time_limit"]] * 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("divided", "train_dataloader has a DistributedSampler.*return the loader that you would give one device"),
        ("divided validation", "val_dataloader has a DistributedSampler"),
        ("own iterator", "OwnIterator has an __iter__ of its own"),
        ("small", "batches have 1 sample: give a batch size of at least 2, or fewer devices"),
        ("by rank", "the ranks draw different batches from OfThisRank"),
    ],
)
def test_loaders_that_cannot_be_shared_are_told_before_a_search(two_ranks, name, text):
    for found in two_ranks:
        assert re.search(text, found["refusals"][name])
