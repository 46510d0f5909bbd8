import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { buildKernels } from '../../src/runtime/kernels-build.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-build-'))
const before = process.env.CXX

afterAll(() => {
  if (before === undefined) delete process.env.CXX
  else process.env.CXX = before
  rmSync(scratch, { recursive: true, force: true })
})

test('a compiler that fails leaves a reason and what to do, and no library', () => {
  const compiler = join(scratch, 'broken-cxx')
  writeFileSync(
    compiler,
    '#!/bin/sh\ncase "$1" in --version) echo broken 1.0;; *) echo "no such thing" >&2; exit 1;; esac\n',
  )
  chmodSync(compiler, 0o755)
  process.env.CXX = compiler
  const build = buildKernels(join(scratch, 'cache'))
  expect(build).toMatchObject({
    ok: false,
    reason: expect.stringMatching(/broken-cxx failed: no such thing/),
  })
  expect(build).toMatchObject({ fix: expect.stringContaining('ROPEWAY_KERNELS=ggml') })
})
