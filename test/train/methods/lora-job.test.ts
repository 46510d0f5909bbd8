import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readJsonFile } from '../../../src/base/files.ts'
import { Random } from '../../../src/base/random.ts'
import { readAdapter } from '../../../src/models/adapter.ts'
import { openModel } from '../../../src/models/open.ts'
import { runTrainingJob } from '../../../src/train/run-job.ts'
import { tinyJob } from '../tiny-job.ts'

const root = mkdtempSync(join(tmpdir(), 'ropeway-lora-'))
let base: string
let mixture: string

beforeAll(async () => {
  // The same letters in an order that the bases have not seen, so that there is something to learn.
  const words = ['epor', 'yaw', 'nibac', 'reven', 'spots', 'snioj', 'dna', 'sevael', 'eht', 'gnivom']
  const random = new Random(5)
  const text = Array.from({ length: 800 }, () => words[random.integer(words.length)]).join(' ')
  writeFileSync(join(root, 'turned.txt'), text)
  const model = { architecture: 'llama', layers: 2, heads: 2, width: 32 }
  base = (await runTrainingJob(tinyJob(join(root, 'base'), { model }))).folder
  const experts = { architecture: 'mixtral', feed_forward: 64, experts: 4, experts_used: 2 }
  mixture = (await runTrainingJob(tinyJob(join(root, 'mixture'), { model: { ...model, ...experts } }))).folder
})
afterAll(() => rmSync(root, { recursive: true, force: true, maxRetries: 9 }))

const numbersOf = (folder: string, from = base) => {
  using model = openModel(from)
  return readAdapter(folder, model.definition).layers
}

describe.each([
  { name: 'plain', lora: { rank: 2, alpha: 4 } },
  {
    name: 'quantised-dora',
    lora: { rank: 2, alpha: 4, dora: true, rank_stabilised: true, quantize: 'q8_0' },
  },
  { name: 'bfloat16-q4', lora: { rank: 2, alpha: 4, quantize: 'q4_0' }, precision: 'bf16' },
  { name: 'experts-q8', lora: { rank: 2, alpha: 4, quantize: 'q8_0' }, experts: true },
  {
    name: 'experts-bfloat16-q4',
    lora: { rank: 2, alpha: 4, quantize: 'q4_0' },
    precision: 'bf16',
    experts: true,
  },
])('a job that trains an adapter ($name)', ({ name, lora, precision = 'f32', experts = false }) => {
  const from = () => (experts ? mixture : base)
  const job = (folder: string) => {
    const model = { from: from() }
    const data = { text: join(root, 'turned.txt'), validation: 0.1 }
    return tinyJob(join(root, name, folder), {
      model,
      tokenizer: undefined,
      method: { lora },
      precision,
      data,
    })
  }

  test('leaves a PEFT folder that names its base, and lowers the loss', async () => {
    const losses: number[] = []
    const counts: number[] = []
    const result = await runTrainingJob(job('whole'), {
      onStart: ({ parameters, frozenParameters }) => counts.push(parameters, frozenParameters),
      onStep: ({ loss }) => losses.push(loss),
    })
    expect(readdirSync(result.folder)).toContain('adapter_model.safetensors')
    expect(readdirSync(result.folder)).not.toContain('config.json')
    expect(readJsonFile(join(result.folder, 'adapter_config.json'))).toMatchObject({
      base_model_name_or_path: from(),
      r: 2,
      use_dora: lora.dora ?? false,
    })
    // One batch is easier than another.
    const mean = (some: number[]) => some.reduce((a, b) => a + b, 0) / some.length
    const some = Math.floor(losses.length / 4)
    expect(mean(losses.slice(-some))).toBeLessThan(mean(losses.slice(0, some)))
    expect(counts[0]).toBeGreaterThan(0)
    expect(counts[0]).toBeLessThan(counts[1]!)
  })

  test('stopped and resumed, it ends with the same adapter, bit for bit', async () => {
    const controller = new AbortController()
    const onStep = ({ step }: { step: number }) => step === 6 && controller.abort()
    await runTrainingJob(job('halves'), { onStep }, controller.signal)
    const halves = await runTrainingJob(job('halves'))
    const whole = await runTrainingJob(job('whole'))
    expect(halves.outcome).toBe('finished')
    expect(numbersOf(halves.folder, from())).toEqual(numbersOf(whole.folder, from()))
  })
})

test('a resume on another base model is refused', async () => {
  const other = (
    await runTrainingJob(
      tinyJob(join(root, 'other'), { model: { architecture: 'llama', layers: 2, heads: 2, width: 32 } }),
    )
  ).folder
  const folder = join(root, 'moved')
  const job = (steps: number) =>
    tinyJob(folder, {
      model: { from: other },
      tokenizer: undefined,
      steps,
      schedule: { decay_steps: 12 },
      method: { lora: {} },
    })
  await runTrainingJob(job(4))
  const config = readJsonFile(join(other, 'config.json'))
  writeFileSync(join(other, 'config.json'), JSON.stringify({ ...config, rms_norm_eps: 1e-6 }))
  await expect(runTrainingJob(job(8))).rejects.toThrow(/is not the one that .* was trained on/)
})

test('targets that the model lacks are refused by name, with those that it has', async () => {
  const job = tinyJob(join(root, 'wrong'), {
    model: { from: base },
    tokenizer: undefined,
    method: { lora: { targets: ['c_attn'] } },
  })
  await expect(runTrainingJob(job)).rejects.toThrow(/method\.lora\.targets names c_attn/)
})

test('an adapter without a model to adapt is refused', () => {
  expect(() => tinyJob(join(root, 'none'), { method: { lora: {} } })).toThrow(/method\.lora/)
})
