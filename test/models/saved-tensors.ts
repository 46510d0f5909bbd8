/** What files of a model must be like that were written from what another file said. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import type { Device } from '../../src/runtime/device.ts'
import { restore } from '../../src/train/checkpoint.ts'
import { loadModel } from '../../src/train/parameters.ts'
import { Snapshot } from '../../src/train/snapshot.ts'
import { bytesOfTensor } from '../formats/folders.ts'

/** Names, shapes and bytes of both folders' tensors. */
export function expectSameTensors(one: string, other: string): void {
  using written = openSafetensors(join(one, 'model.safetensors'))
  using wanted = openSafetensors(join(other, 'model.safetensors'))
  expect(written.names().sort()).toEqual(wanted.names().sort())
  for (const name of wanted.names()) {
    expect(written.info(name)!.shape, name).toEqual(wanted.info(name)!.shape)
    expect(Buffer.from(bytesOfTensor(written, name)).equals(bytesOfTensor(wanted, name)), name).toBe(true)
  }
}

/** Training saves the model in `folder` as it is, and reads it again from there; `saved` is made. */
export function expectSavesWhatItRead(folder: string, saved: string, device: Device): void {
  mkdirSync(saved)
  using parameters = loadModel(folder, device)
  const snapshot = new Snapshot(parameters)
  snapshot.take()
  writeSafetensors(join(saved, 'model.safetensors'), snapshot.weights())
  writeSafetensors(join(saved, 'optimizer.safetensors'), snapshot.moments())
  expectSameTensors(saved, folder)
  const before = parameters.all.map(({ weight }) => weight.toFloats())
  for (const { weight } of parameters.all) weight.write(new Float32Array(weight.size))
  restore(saved, parameters)
  expect(parameters.all.map(({ weight }) => weight.toFloats())).toEqual(before)
}
