import { expect, test } from 'vitest'
import { findGpuLibrary, fittingLibraries, type Nvidia } from '../../src/runtime/gpu-packages.ts'

const platform = '@node-llama-cpp/linux-x64'
const newest = { package: `${platform}-cuda`, path: 'cuda.so' }
const older = { package: `${platform}-cuda-ext`, path: 'fallback/cuda.so' }

const chosen = (nvidia: Nvidia | undefined, candidates = [newest, older]) => {
  const found = fittingLibraries(platform, candidates, nvidia)
  return 'reason' in found ? found : found.map(({ package: name }) => name.replace(`${platform}-`, ''))
}

test('a GPU for which CUDA 13.1’s library has machine code needs a driver of CUDA 13.0 only', () => {
  for (const capability of [86, 89, 120, 121])
    expect(chosen({ cuda: 13000, capability })).toEqual(['cuda', 'cuda-ext'])
  expect(chosen({ cuda: 12090, capability: 89 })).toEqual(['cuda-ext'])
})

test('an A100 or H100 takes that library with a driver that compiles its intermediate code, of 13.1 or newer', () => {
  for (const capability of [75, 80, 90, 100]) {
    expect(chosen({ cuda: 13010, capability })).toEqual(['cuda', 'cuda-ext'])
    expect(chosen({ cuda: 13000, capability })).toEqual(['cuda-ext'])
  }
})

test('a GPU older than any that the library knows takes the extension', () => {
  expect(chosen({ cuda: 13010, capability: 61 })).toEqual(['cuda-ext'])
})

test('where only the newest is installed and the driver cannot take it, the answer names both and the way out', () => {
  expect(chosen({ cuda: 13000, capability: 90 }, [newest])).toEqual({
    variant: 'cuda',
    reason: "it has no code that this GPU's driver takes (compute capability 9.0, driver for CUDA 13.0)",
    fix: expect.stringMatching(
      /npm install @node-llama-cpp\/linux-x64-cuda-ext@3\.22\.1.*driver for CUDA 13\.1/,
    ),
  })
})

test('without a driver the answer says so, whatever is installed', () => {
  expect(chosen(undefined)).toEqual({
    variant: 'cuda',
    reason: expect.stringContaining('no NVIDIA driver'),
    fix: expect.stringContaining('driver'),
  })
})

test('a package that is not installed, or without the library in it, is no problem to speak of', () => {
  expect(findGpuLibrary(platform, 'vulkan', '.so', () => undefined)).toBeUndefined()
  expect(findGpuLibrary(platform, 'cuda', '.so', () => import.meta.dirname)).toBeUndefined()
})
