/**
 * By hand: trains tiny models and adapters, exports them, and leaves beside each export what Ropeway computes, for
 * `exports.py` to compare with transformers and PEFT. Usage: tsx test/outside/exports.ts FOLDER
 */

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { architectureNames } from '../../src/models/registry.ts'
import { Device } from '../../src/runtime/device.ts'
import { readWithSource } from '../../src/train/export/compare.ts'
import { type ExportForm, type ExportType, exportModel } from '../../src/train/export/export.ts'
import { openExportSource } from '../../src/train/export/source.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { tinyJob } from '../train/tiny-job.ts'

const folder = process.argv[2]!
const device = new Device({ device: 'cpu', threads: 1 })
const tokens = Int32Array.from({ length: 48 }, (_, i) => (i * 37 + 5) % 290)

function exported(from: string, name: string, form: ExportForm, type: ExportType): void {
  const to = join(folder, 'exports', name)
  exportModel({ from, to, form, type }, device)
  // The written weights themselves, decoded: what others compute from them must be the same to the last digits.
  using source = openExportSource(form === 'peft' ? from : to, form === 'peft' ? to : undefined)
  const { logits } = readWithSource(source, tokens, device)
  writeFileSync(join(to, 'ropeway-reads.json'), JSON.stringify({ tokens: [...tokens], logits: [...logits] }))
}

const bases = new Map<string, string>()
for (const architecture of architectureNames()) {
  const model = { architecture, layers: 2, heads: 4, width: 64, tied: architecture !== 'llama' }
  const job = tinyJob(join(folder, architecture), {
    model,
    tokenizer: { byte_pairs: 300 },
    steps: 20,
    context: 64,
  })
  const { folder: checkpoint } = await runTrainingJob(job)
  bases.set(architecture, checkpoint)
  for (const type of ['f32', 'bf16', 'f16'] as const)
    exported(checkpoint, `${architecture}-${type}`, 'safetensors', type)
}
for (const [name, base, lora] of [
  ['llama-lora', 'llama', { rank: 4 }],
  ['llama-rslora-dora', 'llama', { rank: 4, dora: true, rank_stabilised: true }],
  ['qwen2-lora', 'qwen2', { rank: 4, targets: ['q_proj', 'down_proj'] }],
  ['qwen3-lora', 'qwen3', { rank: 4 }],
  ['mistral-dora', 'mistral', { rank: 4, dora: true }],
  ['gpt2-lora', 'gpt2', { rank: 4 }],
] as const) {
  const job = tinyJob(join(folder, name), {
    model: { from: bases.get(base)! },
    tokenizer: undefined,
    steps: 20,
    context: 64,
    method: { lora },
  })
  const { folder: checkpoint } = await runTrainingJob(job)
  exported(checkpoint, `${name}-peft`, 'peft', 'f32')
  exported(checkpoint, `${name}-merged`, 'merged', 'f32')
}
