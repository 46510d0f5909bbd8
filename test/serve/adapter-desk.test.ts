import { expect, test } from 'vitest'
import { UserError } from '../../src/base/errors.ts'
import { EngineAdapters } from '../../src/serve/process/adapter-desk.ts'

/** A desk before an engine that remembers what is loaded. */
function desk() {
  const loaded = new Set<string>()
  const adapters = new EngineAdapters({
    load: async (id, folder) => {
      if (folder === 'broken') throw new UserError('The file is not whole.')
      loaded.add(id)
    },
    unload: (id) => loaded.delete(id),
  })
  return { adapters, loaded: () => [...loaded].sort().join(' ') }
}

test('the version before stays loaded for going back, and an older one until its last request ends', async () => {
  const { adapters, loaded } = desk()
  await adapters.publish('poet', 'a')
  adapters.take('poet@1')
  await adapters.publish('poet', 'b')
  expect(await adapters.publish('poet', 'c')).toEqual({ name: 'poet', id: 'poet@3', previous: 'poet@2' })
  expect(loaded()).toBe('poet@1 poet@2 poet@3')
  adapters.give('poet@1')
  expect(loaded()).toBe('poet@2 poet@3')
  expect(adapters.rollback('poet').id).toBe('poet@2')
  expect(adapters.resolve('poet:latest')).toBe('poet@2')
  expect(adapters.rollback('poet').id).toBe('poet@3')
  expect(loaded()).toBe('poet@2 poet@3')
})

test('a name that is removed is gone for new requests, and its versions once they are given back', async () => {
  const { adapters, loaded } = desk()
  await adapters.publish('poet', 'a')
  adapters.take('poet@1')
  expect(adapters.remove('poet')).toBe(true)
  expect(adapters.remove('poet')).toBe(false)
  expect(adapters.resolve('poet')).toBeUndefined()
  expect(loaded()).toBe('poet@1')
  adapters.give('poet@1')
  expect(loaded()).toBe('')
  expect((await adapters.publish('poet', 'b')).id).toBe('poet@2')
})

test('an adapter that cannot be loaded leaves the one before in force', async () => {
  const { adapters } = desk()
  await adapters.publish('poet', 'a')
  await expect(adapters.publish('poet', 'broken')).rejects.toThrow(/whole/)
  expect(adapters.resolve('poet')).toBe('poet@1')
  await expect(adapters.publish('../etc', 'a')).rejects.toThrow(/no name/)
  expect(() => adapters.rollback('poet')).toThrow(/no version before/)
})

test('publications that overlap end with the one that was asked for last', async () => {
  const { adapters } = desk()
  const all = ['a', 'b', 'c'].map((folder) => adapters.publish('poet', folder))
  expect((await Promise.all(all)).map(({ id }) => id)).toEqual(['poet@1', 'poet@2', 'poet@3'])
  expect(adapters.resolve('poet')).toBe('poet@3')
})
