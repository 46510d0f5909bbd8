import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { loadKernels } from '../../src/runtime/kernels.ts'

const formats = ['Q8_0', 'Q4_0', 'Q5_0', 'Q4_K', 'Q5_K', 'Q6_K', 'MXFP4', 'F16'] as const
/** Beside the file's size: Q4_0 and Q5_0 get an offset for every scale, an eighth of them at the most ... */
const layoutShare = 0.125
/** ... and rows on their way, tensors' descriptions, and what the garbage collector has not seen yet. */
const marginBytes = 8 * 2 ** 20

test.skipIf(loadKernels() === undefined || process.platform !== 'linux')(
  'loading keeps weights once, as packed, and needs at no moment more than the size of the file and a margin',
  () => {
    const child = join(import.meta.dirname, 'load-memory-child.ts')
    const { stdout, stderr, status } = spawnSync(process.execPath, [...runnerOf(child), child, ...formats], {
      encoding: 'utf8',
    })
    expect(stderr).toBe('')
    expect(status).toBe(0)
    const found = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(found.map(({ format }) => format)).toEqual(formats)
    for (const { format, fileBytes, weightBytes, grown } of found) {
      expect(weightBytes / fileBytes, format).toBeLessThan(1 + layoutShare)
      expect(grown, format).toBeLessThan(fileBytes * (1 + layoutShare) + marginBytes)
    }
  },
)
