"""`plan` without its compilers: machines, the text of compiled programs, arithmetic, messages, JSON."""

import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from metasemi_jax.command import config_file
from metasemi_jax.config.checks import check_config
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.errors import UserError
from metasemi_jax.plan import __main__ as command
from metasemi_jax.plan import devices, hlo, make, report
from metasemi_jax.plan.estimate import Estimate, Memory, Time, estimate, memory_of, needed_bytes, roofline
from metasemi_jax.plan.gpu_targets import target_config
from metasemi_jax.plan.hlo import Array
from metasemi_jax.plan.machines import CHIPS, parse_topology
from metasemi_jax.plan.search import Room, largest_batch
from metasemi_jax.plan.stand_in import FORMS, data_of
from metasemi_jax.plan.step_program import StepProgram, lower_step
from metasemi_jax.training.experiment import build_experiment
from metasemi_jax.training.multi_step import place_host_batches
from metasemi_jax.training.prepared import prepare
from small_runs import ROOT, tiny_config

DATA = ROOT / 'tests' / 'data'


@pytest.mark.parametrize(
    ('text', 'shape', 'size'),
    [('v5e:16x16', (16, 16), 256), ('V5P:2x2x4', (2, 2, 4), 16), ('h100:8', (8,), 8), ('v6e:1x1', (1, 1), 1)],
)
def test_topologies(text, shape, size):
    topology = parse_topology(text)
    assert (topology.shape, topology.size) == (shape, size)
    assert topology.chip is CHIPS[text.partition(':')[0].lower()]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('v5:2x2', 'is none of v4, v5e, v5p, v6e, a100'),
        ('h10:8', 'did you mean h100?'),
        ('v5e', 'no size; write CHIP:SIZE'),
        ('v5e:2xtwo', "size '2xtwo'; write CHIP:SIZE"),
        ('v5e:0x2', "size '0x2'"),
        ('v5e:2x2x1', 'is sized by 2 numbers; write v5e:2x2'),
        ('v4:2x2', 'is sized by 3 numbers; write v4:2x2x1'),
        ('h100:2x4', 'is sized by 1 number; write h100:8'),
        ('v5e:1000x1000', 'use at most 65,536'),
    ],
)
def test_a_bad_topology_is_named(text, message):
    with pytest.raises(UserError, match=f'^--topology={text}') as caught:
        parse_topology(text)
    assert message in str(caught.value)


def test_gpus_are_described_to_the_compiler_as_to_the_reader():
    for name, chip in CHIPS.items():
        if chip.platform == 'gpu':
            text = target_config(name)
            assert f'memory_bandwidth: {round(chip.memory_rate / 1e9)}' in text
            assert chip.memory == int(0.75 * int(text.partition('device_memory_size: ')[2].split()[0]))
            assert text.count('{') == text.count('}')


# Two convolutions of 3×3, a linear layer of 10, and the gradients of all of it but that of the images; 16×16
# pixels. Of the TPU's program every third row is padding.
@pytest.mark.parametrize(('name', 'images', 'channels', 'padded'), [('gpu', 4, 64, 1), ('tpu', 2, 128, 1.5)])
def test_products_are_counted_as_by_hand(name, images, channels, padded):
    conv = 2 * images * 16 * 16 * channels * 9 * channels
    linear = 2 * images * channels * 10
    counted = hlo.flops(hlo.parse((DATA / f'plan_{name}_step.txt').read_text()))
    assert counted == 5 * padded * conv + 3 * linear


def test_the_count_of_bytes_is_near_the_compilers_own():
    """The TPU's compiler says 24.67 MB, of the memory on the chip too; the GPU's says nothing."""
    text = (DATA / 'plan_tpu_step.txt').read_text()
    assert hlo.traffic(hlo.parse(text.replace('S(1)', ''))) == pytest.approx(24_674_304, rel=0.1)
    assert hlo.traffic(hlo.parse(text)) < 0.1 * 24_674_304


MAIN = 'bf16[2,9,64]{2,1,0:T(8,128)(2,1)}'
CHIP = 'bf16[2,9,64]{2,1,0:T(8,128)(2,1)S(1)}'
COPIES = """
%updated (p0: bf16[2,9,64], p1: bf16[1,9,64]) -> bf16[2,9,64] {
  %p0 = CHIP parameter(0)
  %p1 = bf16[1,9,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %c = s32[] constant(0)
  ROOT %u = CHIP dynamic-update-slice(%p0, %p1, %c, %c, %c)
}

ENTRY %main (x: bf16[2,9,64]) -> bf16[2,9,64] {
  %x = MAIN parameter(0)
  %s = (CHIP, MAIN, u32[]{:S(2)}) copy-start(%x)
  %y = CHIP copy-done(%s)
  %t = ((MAIN), bf16[1,9,64]{2,1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:1]}
  %n = CHIP negate(%y)
  %d = bf16[1,9,64]{2,1,0:T(8,128)(2,1)} slice(%n), slice={[0:1], [0:9], [0:64]}
  %f = CHIP fusion(%n, %d), kind=kLoop, calls=%updated
  ROOT %a = MAIN add(%n, %x)
}
""".replace('MAIN', MAIN).replace('CHIP', CHIP)


def test_only_a_tpus_main_memory_counts_with_the_padding_of_its_tiles():
    """A copy and a slice are read; a slice is written and read again; a sum reads one operand and writes.

    Of 9 × 64 numbers a tile makes 16 × 128.
    """
    whole = 2 * 16 * 128 * 2
    assert hlo.traffic(hlo.parse(COPIES)) == whole + whole // 2 + (whole // 2 + whole // 2) + 2 * whole


def test_what_is_sent_is_read_from_the_text():
    tpu, gpu = (hlo.sent(hlo.parse((DATA / f'plan_{n}_step.txt').read_text())) for n in ('tpu', 'gpu'))
    assert tpu == {
        ('all-reduce', Array('bf16', (3, 3, 128, 128))): 2,
        ('all-reduce', Array('f32', (128, 10))): 1,
    }
    # The GPU's compiler makes one array of all, in float32.
    assert gpu == {('all-reduce', Array('f32', (9 * 64 * 64 + 64 * 10,))): 1}


PROGRAM = """
%slices (p0: u8[1000,8], p1: s32[4]) -> u8[4,8] {
  %p0 = u8[1000,8]{1,0} parameter(0)
  %p1 = s32[4]{0} parameter(1)
  ROOT %gather.1 = u8[4,8]{1,0} gather(%p0, %p1), offset_dims={1}
}

%body (p: (f32[2,2], f32[2,2])) -> (f32[2,2], f32[2,2]) {
  %p = (f32[2,2]{1,0}, f32[2,2]{1,0}) parameter(0)
  %a = f32[2,2]{1,0} get-tuple-element(%p), index=0
  %d = f32[2,2]{1,0:T(8,128)} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (f32[2,2]{1,0}, f32[2,2]{1,0}) tuple(%d, %a)
}

%less (p: (f32[2,2], f32[2,2])) -> pred[] {
  %p = (f32[2,2]{1,0}, f32[2,2]{1,0}) parameter(0)
  ROOT %c = pred[] constant(false)
}

ENTRY %main (x: u8[1000,8], i: s32[4], w: (f32[2,2], f32[2,2])) -> u8[4,8] {
  %x = u8[1000,8]{1,0} parameter(0)
  %i = s32[4]{0} parameter(1)
  %w = (f32[2,2]{1,0}, f32[2,2]{1,0}) parameter(2)
  %loop = (f32[2,2], f32[2,2]) while(%w), condition=%less, body=%body, x={"known_trip_count":{"n":"3"}}
  %g = (u8[2,8], u8[4,8]) all-gather-start(%x), dimensions={0}
  %h = u8[4,8] all-gather-done(%g)
  ROOT %f = u8[4,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%slices
}
"""


def test_loops_count_as_often_as_they_run_and_slices_as_what_is_taken():
    program = hlo.parse(PROGRAM)
    assert hlo.flops(program) == 3 * 2 * 8
    # Three times 16 bytes and a tile of 4,096; the gather starts: 16 + 32 + 8,000; the fusion: 32 + 16 + 32.
    assert hlo.traffic(program) == 3 * (16 + 4096) + (16 + 32 + 8000) + (32 + 16 + 32)
    assert hlo.sent(program) == {('all-gather', Array('u8', (4, 8))): 1}


@pytest.mark.parametrize('made', ['((f32[3], f32[]), (f32[3], f32[]))', '(f32[3], f32[])'])
def test_a_sum_that_is_started_counts_once(made):
    start = f'%s = {made} all-reduce-start(%x, %y), to_apply=%add'
    text = f'ENTRY %main (x: f32[3], y: f32[]) -> f32[3] {{\n  {start}\n}}'
    arrays = (Array('f32', (3,)), Array('f32', ()))
    assert hlo.sent(hlo.parse(text)) == {('all-reduce', array): 1 for array in arrays}


def test_the_roofline_is_arithmetic():
    topology = parse_topology('v5e:2x2')
    time = roofline(topology, flops=197e9, traffic=1.638e9, sent=4e6, dtype='bfloat16')
    assert time == pytest.approx((1e-3, 2e-3, 2 * 3 / 4 * 4e6 / 200e9))
    assert (time.least, time.serial) == (pytest.approx(2e-3), pytest.approx(3.03e-3))
    assert time.bound_by == 'memory'
    assert roofline(topology, flops=197e9, traffic=0, sent=0, dtype='float32').compute == pytest.approx(6e-3)
    assert roofline(parse_topology('h100:1'), flops=0, traffic=0, sent=1e9, dtype='bfloat16').network == 0


def test_memory_of_a_compiled_step():
    analysis = SimpleNamespace(
        argument_size_in_bytes=1000,
        output_size_in_bytes=500,
        alias_size_in_bytes=450,
        temp_size_in_bytes=2000,
        generated_code_size_in_bytes=30,
    )
    memory = memory_of(analysis, CHIPS['v5e'], state=400, evaluation=70)
    assert memory == Memory(400, 670, 2080, CHIPS['v5e'].memory)
    assert memory.total == 3150
    assert memory.fits
    assert not memory._replace(available=3149).fits


def test_what_the_compiler_wanted_is_read_from_its_refusal():
    wanted = 'Ran out of memory on HBM, the total memory required for HLO temporaries (512.00G) exceeds'
    assert needed_bytes(f'RESOURCE_EXHAUSTED: {wanted}') == 512 * 2**30
    assert needed_bytes('Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.') == 20.5 * 2**30
    assert needed_bytes('RESOURCE_EXHAUSTED') is None


@pytest.mark.parametrize(('limit', 'share'), [(100, 0.8), (100, None), (37, 0.3), (3, 0.9), (127, 0.99)])
def test_the_search_ends_close_to_the_largest_batch(limit, share):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= limit

    room = largest_batch(fits, 128, 4, share=share)
    assert len(tried) <= 5
    assert all(size % 4 == 0 and 0 < size < 128 for size in tried)
    assert room.fits <= limit < room.too_large
    assert room.too_large - room.fits <= max(8, limit // 3)


def test_known_data_sets_need_not_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'nothing'))
    for name in ('svhn', 'stl10'):
        config = config_file.load_config(f'{ROOT}/configs/{name}.py')
        form = FORMS[config.data.name]
        dataset, split = data_of(config)
        assert dataset.train_images.shape == (form.num_train, *form.image_shape)
        # STL-10 with the fold of a file that is not there either.
        assert len(split.labeled) == 1000
        assert (dataset.train_labels < 0).sum() == form.num_unlabeled
    assert list(tmp_path.iterdir()) == []


def functions_of(text):
    """A program's functions: JAX names equal constants and helpers once, or often."""
    values, functions = {}, [[]]
    for line in re.sub(r'@(\w+?)_\d+\b', r'@\1', text).splitlines():
        if defined := re.match(r'\s*(%cs?t?[_\d]*) = stablehlo.constant (.*)', line):
            values[defined[1]] = defined[2]
            continue
        if 'func.func' in line:
            functions.append([])
        functions[-1].append(re.sub(r'%cs?t?(_\d+)?\b', lambda name: values.get(name[0], name[0]), line))
    return {'\n'.join(lines).removesuffix('\n}') for lines in functions}


def test_the_program_is_the_one_that_training_calls():
    """Text by text: the planned step of the digits, and that of a run."""
    config, mesh = tiny_config(model__name='conv_small'), make_mesh()
    dataset, split = data_of(config)
    check_config(config)
    planned = lower_step(config, dataset, split, mesh)
    experiment = build_experiment(config, mesh)
    run, device_data, key, max_steps = prepare(experiment, mesh)
    batches, count = place_host_batches(experiment.pipeline.host_batches(0), 1, max_steps, mesh)
    training = run.lower(experiment.state, device_data, batches, count, key)
    functions = functions_of(planned.lowered.as_text())
    # Not `assert ==`: pytest would compare 4,000 lines.
    same = functions == functions_of(training.as_text())
    assert same
    assert max(map(len, functions)) > 100_000
    assert planned.num_params == sum(x.size for x in jax.tree.leaves(experiment.state.params))
    assert planned.state_bytes == sum(np.asarray(x).nbytes for x in jax.tree.leaves(experiment.state))


@pytest.fixture
def typed(monkeypatch, capsys):
    """The messages of `plan FLAGS`, without a compiler."""
    for name in ('JAX_PLATFORMS', 'TPU_SKIP_MDS_QUERY', 'ALLOW_MULTIPLE_LIBTPU_LOAD'):
        monkeypatch.setenv(name, 'cpu' if name == 'JAX_PLATFORMS' else '1')
    monkeypatch.setenv('TPU_ACCELERATOR_TYPE', '')
    monkeypatch.setenv('TPU_WORKER_HOSTNAMES', '')

    def run(*flags):
        with pytest.raises(SystemExit) as ended:
            command.main(['plan', *flags])
        line = ended.value.code
        assert line.startswith('error: ')
        assert '\n' not in line
        assert capsys.readouterr() == ('', '')
        return line

    return run


def test_without_the_compiler_one_line_says_what_to_install(typed, monkeypatch):
    monkeypatch.setattr(devices, 'find_spec', lambda name: None)
    assert "pip install '.[plan-tpu]'" in typed('--topology=v5e:2x2')
    assert "pip install '.[plan-gpu]'" in typed('--topology=h100:8')


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ([], '--topology is missing; write CHIP:SIZE'),
        (['--topology=tpu'], "'tpu' is none of"),
        (['--topology=v5e:2x2', '--config=nope'], 'there is no such file'),
        (['--topology=v5e:2x2', '--config.batch=3'], "unknown config field 'batch'"),
        (['--topology=v5e:2x2', '--config.batch_size=0'], 'batch_size=0 must be more than 0'),
        (['--topology=v5e:2x2', '--config.data.num_labels=55'], 'cannot be shared evenly by 10 classes'),
        (['--topology=v5e:2x2', '--config=svhn', '--config.data.num_labels=55'], 'cannot be shared evenly'),
        (['--topology=v5e:2x2', '--config.data.name=nope'], 'there is no source for this dataset'),
        (['--topology=v5e:2x2', '--config=folder'], 'data.path'),
        (['--topology=v5e:2x2', '--config=svhn', '--config.data.split_file=x.txt'], 'x.txt is not there'),
        (
            ['--topology=v5e:2x2', '--config.batch_size=62'],
            'cannot be shared evenly by 4 devices; use 60 or 64',
        ),
    ],
)
def test_bad_input_ends_in_one_line(typed, monkeypatch, flags, message):
    monkeypatch.setattr(command, 'check_compiler', lambda topology: None)
    monkeypatch.setattr(make, 'absent_devices', lambda topology: jax.devices())
    monkeypatch.setattr(make, 'make_mesh', lambda devices: SimpleNamespace(devices=np.array(devices), size=4))
    assert message in typed(*flags)


ROOMY = Memory(4, 3, 2, 10)


def plan_of(*, memory=ROOMY, topology='v5e:2x2', **fields):
    sent = {('all-reduce', Array('bf16', (3, 3))): 2, ('all-reduce', Array('f32', ())): 1}
    found = Estimate(memory, 2e12, 3e9, 4e9, hlo.Counter(sent), Time(0.01, 0.02, 0.005), 'text')
    program = StepProgram(tiny_config(model__name='conv_small'), None, 'bfloat16', 100, 123, 0, 0)
    values = {'estimate': found, 'wanted': None} | fields
    return report.Plan(parse_topology(topology), program, 12.34, **values)


def test_json_has_every_figure():
    result = json.loads(json.dumps(report.as_json(plan_of())))
    assert result['fits'] is True
    assert result['memory'] == {'state': 4, 'data': 3, 'activations': 2}
    assert (result['memory_wanted'], result['memory_available']) == (9, CHIPS['v5e'].memory)
    assert (result['batch_size'], result['batch_size_per_device'], result['largest_batch_size']) == (8, 2, 8)
    assert result['step']['least_s'] == 0.02
    assert result['step']['serial_s'] == pytest.approx(0.035)
    assert result['step']['sent_bytes'] == 2 * 18 + 4
    assert result['run_s'] == pytest.approx([12 * 0.02, 12 * 0.035])
    assert result['sent'] == [
        {'operation': 'all-reduce', 'dtype': 'bfloat16', 'shape': [3, 3], 'count': 2},
        {'operation': 'all-reduce', 'dtype': 'float32', 'shape': [], 'count': 1},
    ]
    refused = report.as_json(plan_of(estimate=None, wanted=99, room=Room(4, 8)))
    assert refused.keys() == result.keys()
    assert (refused['fits'], refused['memory_wanted'], refused['largest_batch_size']) == (False, 99, 4)


def test_lines_for_people_answer_first():
    text = list(report.lines(plan_of()))
    assert text[0].startswith('metasemi on digits: conv_small, 123 parameters, 8 + 8 images a step')
    assert text[1].startswith('compiled, not run')
    assert text[2].startswith('it fits: ')
    assert any('all-reduce of 2 arrays in bfloat16' in line for line in text)
    large = 'it does not fit: it wants 9e+03 GiB'
    many = plan_of(memory=Memory(9, 0, 0, 8), room=Room(4, 6))
    assert 'the largest batch_size that fits is 4 of those tried; 6 does not' in list(report.lines(many))[2]
    none = plan_of(estimate=None, wanted=9000 * 2**30, room=Room(0, 4))
    line = list(report.lines(none))[2]
    assert line.startswith(large)
    assert 'use more devices' in line


def test_how_much_longer_a_real_one_took_is_said_where_it_is_known():
    (line,) = [line for line in report.lines(plan_of(topology='h100:1')) if 'real H100' in line]
    least, most = CHIPS['h100'].slower
    assert line.endswith(f'{35 * least:.3g} to {35 * most:.3g} ms here')
    assert not any('real TPU' in line for line in report.lines(plan_of()))


def test_flops_are_counted_from_the_text_where_the_compiler_does_not_and_bytes_always():
    analysis = SimpleNamespace(
        argument_size_in_bytes=10,
        output_size_in_bytes=4,
        alias_size_in_bytes=4,
        temp_size_in_bytes=6,
        generated_code_size_in_bytes=0,
    )
    text = (DATA / 'plan_gpu_step.txt').read_text()
    compiled = SimpleNamespace(
        as_text=lambda: text, cost_analysis=lambda: None, memory_analysis=lambda: analysis
    )
    found = estimate(compiled, parse_topology('h100:2'), state=4, evaluation=0, dtype='bfloat16')
    assert found.flops_by == 'text'
    assert found.flops == hlo.flops(hlo.parse(text))
    compiled.cost_analysis = lambda: {'flops': 1.0, 'bytes accessed': 2.0}
    found = estimate(compiled, parse_topology('h100:2'), state=4, evaluation=0, dtype='bfloat16')
    assert (found.flops, found.flops_by) == (1.0, 'compiler')
    assert found.bytes == hlo.traffic(hlo.parse(text))
