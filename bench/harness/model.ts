/** Models that benches run: noise in the shape of a real one, made where it is needed and never committed. */
import { existsSync, mkdirSync, renameSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { userCacheFolder } from '../../src/base/files.ts'
import { type ModelSize, makeModel } from '../make-model.ts'

/** Small enough for a test: a start, a prompt and some tokens take milliseconds. */
export const tiny: ModelSize = {
  layers: 2,
  width: 64,
  heads: 2,
  keyValueHeads: 1,
  feedForward: 128,
  vocabulary: 512,
}

export function benchCacheFolder(): string {
  return join(userCacheFolder(), 'bench')
}

/** The random 0.5B model in the cache folder, written there the first time (some seconds). */
export function benchModel(say: (line: string) => void): string {
  const path = join(benchCacheFolder(), 'random-0.5b-q8_0.gguf')
  if (existsSync(path)) return path
  say('writing the random 0.5B model')
  mkdirSync(dirname(path), { recursive: true })
  const temporary = `${path}.${process.pid}`
  makeModel(temporary)
  renameSync(temporary, path)
  return path
}
