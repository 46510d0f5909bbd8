import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readJsonFile } from '../../../src/base/files.ts'
import { openGguf } from '../../../src/formats/gguf.ts'
import { architectureNames } from '../../../src/models/registry.ts'
import { Device } from '../../../src/runtime/device.ts'
import { compare, holdTo } from '../../../src/train/export/compare.ts'
import { type ExportForm, type ExportType, exportModel } from '../../../src/train/export/export.ts'
import { merge } from '../../../src/train/export/source.ts'
import { runTrainingJob } from '../../../src/train/run-job.ts'
import { ropeway } from '../../cli/command-line.ts'
import { refusalOf } from '../../formats/folders.ts'
import { tinyJob } from '../tiny-job.ts'

const root = mkdtempSync(join(tmpdir(), 'ropeway-export-'))
const device = new Device({ device: 'cpu', threads: 1 })
const models = new Map<string, string>()
let adapter: string

beforeAll(async () => {
  const tokenizer = { byte_pairs: 300 }
  const sizes = { layers: 2, heads: 2, width: 256, feed_forward: 256 }
  for (const architecture of architectureNames()) {
    const model = { architecture, ...sizes, bias: true, tied: architecture !== 'llama' }
    const job = tinyJob(join(root, architecture), { model, tokenizer, steps: 6, context: 64 })
    const { folder } = await runTrainingJob(job)
    writeFileSync(
      join(folder, 'chat_template.jinja'),
      '{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}',
    )
    models.set(architecture, folder)
  }
  const job = tinyJob(join(root, 'adapter'), {
    model: { from: models.get('llama')! },
    tokenizer: undefined,
    steps: 6,
    context: 64,
    method: { lora: { rank: 4, dora: true } },
  })
  adapter = (await runTrainingJob(job)).folder
})
afterAll(() => rmSync(root, { recursive: true, force: true, maxRetries: 9 }))

const place = (name: string, form: ExportForm) =>
  join(root, 'exports', form === 'gguf' ? `${name}.gguf` : name)
const exported = (from: string, name: string, form: ExportForm, type?: ExportType) =>
  exportModel({ from, to: place(name, form), form, type }, device)

describe.each(architectureNames())('a trained %s', (architecture) => {
  test.each([
    ['safetensors', 'f32'],
    ['safetensors', 'f16'],
    ['safetensors', 'bf16'],
    ['gguf', 'f32'],
    ['gguf', 'f16'],
    ['gguf', 'q8_0'],
    ['gguf', 'q4_k'],
  ] as const)('as %s in %s reads like its source, template included', (form, type) => {
    const report = exported(models.get(architecture)!, `${architecture}-${type}`, form, type)
    expect(existsSync(report.path)).toBe(true)
    expect(report.template).toBe(true)
    expect(report.largestLogit).toBeGreaterThan(0)
    if (type === 'f32') expect(report.largestLogitDifference).toBe(0)
    else expect(report.largestLogitDifference).toBeGreaterThan(0)
  })

  test('in a GGUF file of floats is named and computes the same perplexity, bit for bit', () => {
    const there = exported(models.get(architecture)!, `${architecture}-there`, 'gguf', 'f32')
    using file = openGguf(there.path)
    const names: Record<string, string> = {
      ...{ mistral: 'llama', mixtral: 'llama', gemma3_text: 'gemma3', olmo3: 'olmo2', qwen3_moe: 'qwen3moe' },
      gpt_oss: 'gpt-oss',
    }
    expect(file.metadata.get('general.architecture')).toBe(names[architecture] ?? architecture)
    expect(there.perplexityAfter).toBe(there.perplexityBefore)
  })
})

test('LongRoPE of a part of each head goes into a GGUF file and comes back from it', () => {
  const folder = join(root, 'long')
  cpSync(models.get('phi3')!, folder, { recursive: true })
  const config = readJsonFile(join(folder, 'config.json'))
  const divisors = (last: number) => Array.from({ length: 48 }, (_, i) => 1 + (last * i) / 48)
  const scaling = { rope_type: 'longrope', short_factor: divisors(0.3), long_factor: divisors(40) }
  const long = { original_max_position_embeddings: 32, partial_rotary_factor: 0.75, rope_scaling: scaling }
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, ...long, sliding_window: 40 }))
  const { path, perplexityBefore, perplexityAfter } = exported(folder, 'long', 'gguf', 'f32')
  expect(perplexityAfter).toBe(perplexityBefore)
  expect(perplexityBefore).not.toBe(exported(models.get('phi3')!, 'short', 'gguf', 'f32').perplexityBefore)
  using file = openGguf(path)
  expect(file.metadata.get('phi3.rope.dimension_count')).toBe(96)
  expect(file.metadata.get('phi3.attention.sliding_window')).toBe(40)
  expect(file.metadata.get('phi3.rope.scaling.attn_factor')).toBeCloseTo(Math.sqrt(1.2), 6)
  expect(file.info('rope_factors_long.weight')?.shape).toEqual([48])
  const again = exported(path, 'long-again', 'gguf', 'f32')
  expect(again.perplexityAfter).toBe(perplexityBefore)
})

test("Granite's multipliers go into a GGUF file and come back from it", () => {
  const folder = join(root, 'multiplied')
  cpSync(models.get('granite')!, folder, { recursive: true })
  const config = readJsonFile(join(folder, 'config.json'))
  const own = { embedding_multiplier: 12, residual_multiplier: 0.22, logits_scaling: 8 }
  writeFileSync(
    join(folder, 'config.json'),
    JSON.stringify({ ...config, ...own, attention_multiplier: 0.015625 }),
  )
  const { path, perplexityBefore, perplexityAfter } = exported(folder, 'multiplied', 'gguf', 'f32')
  expect(perplexityAfter).toBe(perplexityBefore)
  using file = openGguf(path)
  expect(file.metadata.get('granite.logit_scale')).toBe(8)
  expect(file.metadata.get('granite.attention.scale')).toBe(0.015625)
})

test('Q4_K keeps more bits for embedding and head', () => {
  const { path } = exported(models.get('llama')!, 'mixture', 'gguf', 'q4_k')
  using file = openGguf(path)
  expect(file.info('blk.0.attn_q.weight')?.dtype).toBe('Q4_K')
  expect(file.info('token_embd.weight')?.dtype).toBe('Q6_K')
  expect(file.info('blk.0.attn_norm.weight')?.dtype).toBe('F32')
})

test('a type whose blocks rows do not fill is told tensor by tensor, and the file is called what it is', async () => {
  const architecture = 'llama'
  const sizes = { architecture, layers: 1, heads: 2, width: 64, tied: false }
  const say = async (feedForward: number) => {
    const place = join(root, `narrow-${feedForward}`)
    const job = { model: { ...sizes, feed_forward: feedForward }, tokenizer: { byte_pairs: 300 }, steps: 2 }
    const { folder } = await runTrainingJob(tinyJob(place, { ...job, context: 64 }))
    const to = join(place, 'narrow.gguf')
    const command = ['export', folder, '--as', 'gguf', '--type', 'q4_k', '--to', to]
    const { err, code } = await ropeway(command)
    expect(code, err).toBe(0)
    using file = openGguf(to)
    const types = file.names().map((name) => [name, file.info(name)!.dtype] as const)
    return { said: err, fileType: file.metadata.get('general.file_type'), types: new Map(types) }
  }
  const some = await say(256)
  expect(some.types.get('blk.0.ffn_down.weight')).toBe('Q4_K')
  expect(some.types.get('blk.0.ffn_up.weight')).toBe('F16')
  expect(some.fileType).toBe(15)
  const counted = (type: string) => [...some.types.values()].filter((one) => one === type).length
  for (const type of ['Q4_K', 'F16', 'F32']) expect(some.said).toContain(`${counted(type)} ${type}`)
  expect(some.said).toMatch(/F16 instead of Q4_K, as rows of 64 numbers do not divide into blocks of 256\./)
  expect(some.said).toMatch(/token_embd.weight, output.weight: F16 instead of Q6_K/)
  const none = await say(64)
  expect([...none.types.values()]).not.toContain('Q4_K')
  expect(none.fileType).toBe(1)
  expect(none.said).not.toMatch(/\d Q4_K/)
  const whole = exported(models.get('llama')!, 'filled', 'gguf', 'q4_k')
  expect(whole.types!.unfit).toEqual([])
})

test('config.json has the field names of older and newer transformers', () => {
  const { path } = exported(models.get('llama')!, 'names', 'safetensors', 'bf16')
  const config = readJsonFile(join(path, 'config.json'))
  expect(config).toMatchObject({ dtype: 'bfloat16', torch_dtype: 'bfloat16', rope_theta: 10000 })
  expect(config.rope_parameters).toEqual({ rope_type: 'default', rope_theta: 10000 })
})

describe('an adapter', () => {
  test('is written for PEFT, and merged into its base, alone or as GGUF', () => {
    expect(exported(adapter, 'peft', 'peft').largestLogitDifference).toBe(0)
    expect(exported(adapter, 'merged', 'merged').largestLogitDifference).toBe(0)
    exported(adapter, 'merged', 'gguf', 'q8_0')
    const base = exported(models.get('llama')!, 'base', 'safetensors')
    const merged = exported(join(root, 'exports', 'merged'), 'again', 'safetensors')
    expect(merged.perplexityBefore).not.toBe(base.perplexityBefore)
  })

  test('is not merged into a base that changed', () => {
    const config = join(models.get('llama')!, 'config.json')
    const before = readFileSync(config)
    writeFileSync(config, JSON.stringify({ ...readJsonFile(config), rms_norm_eps: 1e-6 }))
    expect(refusalOf(() => exported(adapter, 'moved', 'merged'))).toMatch(/was trained on/)
    writeFileSync(config, before)
  })
})

describe('of a GGUF file', () => {
  const from = place('file', 'gguf')
  beforeAll(() => void exported(models.get('llama')!, 'file', 'gguf', 'f32'))

  test('another is made with its tokenizer and template; a folder is refused', () => {
    const report = exported(from, 'file-again', 'gguf', 'q8_0')
    expect(report).toMatchObject({ template: true, type: 'q8_0' })
    using again = openGguf(place('file-again', 'gguf'))
    using first = openGguf(from)
    for (const [name, value] of first.metadata)
      if (name.startsWith('tokenizer.')) expect(again.metadata.get(name)).toEqual(value)
    expect(refusalOf(() => exported(from, 'file-folder', 'safetensors'))).toMatch(/into a GGUF file only/)
  })

  test('an adapter is trained, and merged into a folder', async () => {
    const job = tinyJob(join(root, 'adapter-of-file'), {
      ...{ model: { from }, tokenizer: { from: models.get('llama')! }, steps: 2, context: 64 },
      method: { lora: { rank: 4 } },
    })
    const report = exported((await runTrainingJob(job)).folder, 'merged-file', 'merged')
    expect(report.perplexityAfter).toBeCloseTo(report.perplexityBefore, 4)
  })
})

describe('refused', () => {
  test.each([
    { what: 'a model as an adapter', form: 'peft', type: undefined, pattern: /whole model/ },
    { what: 'a folder of quantised numbers', form: 'safetensors', type: 'q4_k', pattern: /does not come in/ },
  ] as const)('$what', ({ form, type, pattern }) => {
    expect(refusalOf(() => exported(models.get('llama')!, 'refused', form, type))).toMatch(pattern)
  })

  test('what is there already, and a tokenizer that GGUF cannot hold; nothing is left behind', async () => {
    exported(models.get('llama')!, 'twice', 'safetensors')
    expect(refusalOf(() => exported(models.get('llama')!, 'twice', 'safetensors'))).toMatch(/there already/)
    const characters = join(root, 'characters')
    const { folder } = await runTrainingJob(
      tinyJob(characters, { model: { architecture: 'llama', layers: 1, heads: 2, width: 32 } }),
    )
    expect(refusalOf(() => exported(folder, 'characters', 'gguf'))).toMatch(/no form in a GGUF file/)
    expect(
      readdirSync(join(root, 'exports')).filter((name) => name.startsWith('.') || name.startsWith('char')),
    ).toEqual([])
  })

  test('nothing stays of an export that was killed, whatever is exported next; one that is under way does', () => {
    const dead = spawnSync('true').pid
    const [killed, underWay] = [`.killed.${dead}.exporting`, `.other.${process.ppid}.exporting`]
    for (const name of [killed, underWay]) mkdirSync(join(root, 'beside', name, 'model'), { recursive: true })
    exportModel({ from: models.get('llama')!, to: join(root, 'beside', 'next'), form: 'safetensors' }, device)
    expect(readdirSync(join(root, 'beside')).sort()).toEqual([underWay, 'next'])
  })

  test('a checkpoint whose weights changed on the disk, not one whose texts did', async () => {
    const { folder } = await runTrainingJob(tinyJob(join(root, 'damaged'), { steps: 1 }))
    const settings = join(folder, 'config.json')
    writeFileSync(settings, `${readFileSync(settings, 'utf8')}\n`)
    exported(folder, 'changed-text', 'safetensors')
    const weights = join(folder, 'model.safetensors')
    const bytes = readFileSync(weights)
    bytes[bytes.length - 2]! ^= 1
    writeFileSync(weights, bytes)
    expect(refusalOf(() => exported(folder, 'changed', 'safetensors'))).toMatch(
      /is damaged: model\.safetensors does not have the content that was saved/,
    )
    expect(existsSync(place('changed', 'safetensors'))).toBe(false)
  })

  test('an export beyond its bound, and one whose numbers are none', () => {
    const ofPerplexity = (perplexity: number) => ({ nats: Float64Array.of(Math.log(perplexity)) })
    const reading = (...logits: number[]) => ({ logits: Float32Array.from(logits), ...ofPerplexity(1.5) })
    const bound = { logits: 0.1, perplexity: 0.01 }
    holdTo(bound, compare(reading(1, 2), reading(1, 2.1), 1), 'a')
    const verdict = (after: ReturnType<typeof reading>) =>
      refusalOf(() => holdTo(bound, compare(reading(1, 2), after, 1), 'a'))
    expect(verdict(reading(1, 2.3))).toMatch(/differs too much/)
    expect(verdict(reading(Number.NaN, 2))).toMatch(/differs too much/)
    expect(verdict({ ...reading(1, 2), ...ofPerplexity(1.53) })).toMatch(/perplexity by 2\.00 %/)
    // Read worse than by guessing between two tokens: the text says nothing about the model.
    const strange = [9, 12].map((perplexity) => ({ ...reading(1, 2), ...ofPerplexity(perplexity) }))
    holdTo(bound, compare(strange[0]!, strange[1]!, 1), 'a')
  })

  test('a mixture is held to the tokens whose experts are the same', () => {
    const reading = (...logits: number[]) => ({
      logits: Float32Array.from(logits),
      nats: Float64Array.from(logits.slice(0, -1), (logit) => Math.abs(logit)),
    })
    const [source, bound] = [reading(0.1, 0.2, 0.1, 0.2), { logits: 0.1, perplexity: 0.01 }]
    const found = compare(source, reading(0.1, 0.9, 0.1, 0.2), 4, 1)
    expect(found).toMatchObject({ largestLogitDifference: 0, tokensLeftOut: 1 })
    expect(found.perplexityAfter).toBe(found.perplexityBefore)
    holdTo(bound, found, 'a')
    const refused = (after: ReturnType<typeof reading>, leftOut: number) =>
      refusalOf(() => holdTo(bound, compare(source, after, 4, leftOut), 'a'))
    expect(refused(reading(0.1, 0.9, 0.1, 0.2), 0)).toMatch(/differs too much/)
    expect(refused(reading(0.1, 0.9, 0.5, 0.2), 1)).toMatch(/differs too much/)
    expect(refused(reading(0.1, Number.NaN, 0.1, 0.2), 1)).toMatch(/differs too much/)
    expect(refused(reading(0.1, Number.POSITIVE_INFINITY, 0.1, 0.2), 1)).toMatch(/differs too much/)
  })
})

test('merging adds scale B A, and with DoRA gives every row its length', () => {
  const layer = {
    name: 'p',
    inputs: 2,
    outputs: 2,
    rank: 1,
    scale: 2,
    a: Float32Array.of(1, 2),
    b: Float32Array.of(1, 0),
    magnitude: undefined,
  }
  const weight = Float32Array.of(1, 0, 0, 5)
  merge(weight, layer)
  expect([...weight]).toEqual([3, 4, 0, 5])
  merge(weight, { ...layer, b: Float32Array.of(0, 0), magnitude: Float32Array.of(10, 1) })
  expect([...weight]).toEqual([6, 8, 0, 1])
})
