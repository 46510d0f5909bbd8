import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'vitest'
import { UserError } from '../../src/base/errors.ts'
import type { TensorSource } from '../../src/formats/source.ts'

/** A folder of the test's own, removed at the end of its scope. */
export class TemporaryFolder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'ropeway-formats-'))

  file(name: string): string {
    return join(this.path, name)
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true, maxRetries: 9 })
  }
}

/** All bytes of one tensor. */
export function bytesOfTensor(source: TensorSource, name: string): Uint8Array {
  const info = source.info(name)
  expect(info, `${source.path} has ${name}`).toBeDefined()
  const bytes = new Uint8Array(info!.bytes)
  source.read(name, bytes)
  return bytes
}

/** The refusal that `act` ends in, as one text. Anything but a UserError fails the test. */
export function refusalOf(act: () => unknown): string {
  try {
    act()
  } catch (error) {
    expect(error).toBeInstanceOf(UserError)
    return (error as UserError).message
  }
  throw new Error('nothing was refused')
}
