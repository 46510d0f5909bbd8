import { expect, test } from 'vitest'
import { passedOn } from '../../src/control/launchers/local/inherited.ts'

test('a job computes by the kernels that the server was told to, compiled and kept where its are, and sees no secret', () => {
  const kernels = { CXX: 'clang++', XDG_CACHE_HOME: '/large/cache', ROPEWAY_KERNELS: 'ggml' }
  const secrets = { ROPEWAY_API_KEYS: 'a', ROPEWAY_DATABASE: 'b', AWS_SECRET_ACCESS_KEY: 'c', HF_TOKEN: 'd' }
  expect(passedOn({ ...kernels, ...secrets, PATH: '/bin' })).toEqual({ ...kernels, PATH: '/bin' })
})
