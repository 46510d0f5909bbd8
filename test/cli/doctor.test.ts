import { expect, test } from 'vitest'
import { featuresHere, setsFor } from '../../src/runtime/instruction-sets.ts'
import { kernelStatus } from '../../src/runtime/kernels.ts'
import { ropeway } from './command-line.ts'

const { kernels, ...rest } = kernelStatus()

test('kernels build says which set was built by whom or why none was, and doctor says the same', async () => {
  const found = kernels
    ? `${kernels.instructionSet} of ${(setsFor(featuresHere()) ?? kernels.available).join(', ')}`
    : `plain ggml: ${'reason' in rest ? rest.reason : ''}`
  const build = await ropeway(['kernels', 'build'])
  expect(build.code).toBe(kernels ? 0 : 1)
  expect(build.out).toContain(found)
  const { out, code } = await ropeway(['doctor', '--json'])
  expect(code).toBe(0)
  const findings: { subject: string; ok: boolean; found: string; fix?: string }[] = JSON.parse(out)
  expect(findings.map(({ subject }) => subject)).toEqual(
    expect.arrayContaining(['node', 'machine', 'memory', 'ggml', 'devices', 'kernels', 'home']),
  )
  const finding = findings.find(({ subject }) => subject === 'kernels')!
  expect(finding.ok).toBe(kernels !== undefined)
  expect(finding.found).toContain(found)
  // What is missing has a line that says what it would bring.
  if (!finding.ok) expect(finding.fix).toMatch(/several times as fast/)
})
