/**
 * Our side of memory.ts in a process of its own, because a process has one peak: trains argv[2] (JSON, a MemoryCase)
 * beside the base in argv[3], and prints one JSON line.
 */
import { Device } from '../src/runtime/device.ts'
import { loraFields } from '../src/train/methods/method.ts'
import { loadModel } from '../src/train/parameters.ts'
import { adaptedModel } from '../src/train/prepare-model.ts'
import { Trainer } from '../src/train/trainer.ts'
import { RandomWindows } from '../src/train/windows.ts'
import { peakBytes } from './harness/peak.ts'
import type { MemoryCase } from './memory.ts'

const given: MemoryCase = JSON.parse(process.argv[2]!)
const base = process.argv[3]!
const { batch, context, vocabulary, warmup, steps, threads, precision, method, logitsBytesMax } = given
using device = new Device({ device: 'cpu', threads })
device.keepThreads()
const stream = Int32Array.from({ length: 100_000 }, (_, i) => (i * 7919) % vocabulary)
const beforeBytes = process.memoryUsage.rss()
using parameters =
  method === 'full'
    ? loadModel(base, device)
    : adaptedModel(base, loraFields.parse({ rank: 16, quantize: method.slice('lora-'.length) }), 1337, device)
using trainer = new Trainer(parameters, device, new RandomWindows(stream, batch, context, 1337), {
  shape: { sequences: batch, tokens: context, precision, ...(logitsBytesMax > 0 && { logitsBytesMax }) },
  accumulate: 1,
  optimizer: { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.1, clipNorm: 1 },
  schedule: { kind: 'constant', learningRate: 1e-3, learningRateMin: 0, warmupSteps: 0, decaySteps: 1 },
})
for (let i = 0; i < warmup; i++) await trainer.step()
const [startedMs, processor] = [performance.now(), process.cpuUsage()]
let loss = 0
for (let i = 0; i < steps; i++) loss = (await trainer.step()).loss
const seconds = (performance.now() - startedMs) / 1000
const { user, system } = process.cpuUsage(processor)
const tokens = batch * context * steps
const [peak, mebi] = [peakBytes(), 2 ** 20]
const figures = {
  tokensPerSecond: tokens / seconds,
  tokensPerProcessorSecond: tokens / ((user + system) / 1e6),
  peakMiB: peak / mebi,
  besideRuntimeMiB: (peak - beforeBytes) / mebi,
}
process.stdout.write(`${JSON.stringify({ figures, loss })}\n`)
