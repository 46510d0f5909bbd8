import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import * as api from '../../src/api/control/credentials.ts'
import { viewProject } from '../../src/api/control/projects.ts'
import { openCredential } from '../../src/control/credentials/credentials.ts'
import { Sealer, sealerFromCommand, sealerFromFile } from '../../src/control/credentials/sealer.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { addMember, startService } from './running.ts'

const inDefault = { params: { project: 'default' } }
const values = { kind: 's3', access_key_id: 'AKIA', secret_access_key: 'geheim-1234' } as const
const sealer = new Sealer(new Uint8Array(32).fill(7))

onEveryDatabase((databases) => {
  test('a credential is written, used by name, replaced and forgotten, and never shown', async () => {
    await using service = await startService(databases)
    const made = await service.owner.call(api.createCredential, {
      ...inDefault,
      body: { name: 'store', values },
    })
    const list = await service.owner.call(api.listCredentials, inDefault)
    expect(list.items).toEqual([made])
    expect(made.fields).toEqual(['access_key_id', 'secret_access_key'])
    const { id } = await service.owner.call(viewProject, inDefault)
    const { store } = service
    expect(await openCredential({ store, sealer }, id, 'store', 's3')).toEqual(values)
    await expect(openCredential({ store, sealer }, id, 'store', 'ssh')).rejects.toThrow(/is for s3/)
    const replace = (credential: string) =>
      service.owner.call(api.replaceCredential, {
        params: { project: 'default', credential },
        body: { values: { ...values, secret_access_key: 'neu-5678' } },
      })
    // The beginning of a name would do elsewhere; here it might overwrite what somebody else needs.
    await expect(replace('sto')).rejects.toMatchObject({
      code: 'not_found',
      fix: expect.stringMatching(/whole name.*store/),
    })
    const forget = api.deleteCredential
    await expect(
      service.owner.call(forget, { params: { project: 'default', credential: 'sto' } }),
    ).rejects.toMatchObject({ code: 'not_found' })
    expect(await openCredential({ store, sealer }, id, 'store', 's3')).toEqual(values)
    await replace('store')
    expect(await openCredential({ store, sealer }, id, 'store', 's3')).toMatchObject({
      secret_access_key: 'neu-5678',
    })
    const rows = JSON.stringify(
      await store.db<{ credentials: object }>().selectFrom('credentials').selectAll().execute(),
    )
    const everything = rows + JSON.stringify(list) + service.log.join('')
    for (const secret of ['geheim-1234', 'neu-5678']) expect(everything).not.toContain(secret)
    await service.owner.call(forget, { params: { project: 'default', credential: 'store' } })
    expect(await store.db<{ credentials: object }>().selectFrom('credentials').selectAll().execute()).toEqual(
      [],
    )
  })

  test('a developer may see that a credential exists but not change it; a wrong field is named', async () => {
    await using service = await startService(databases)
    const developer = await addMember(service, 'dev', 'develop')
    const create = (body: never) => developer.call(api.createCredential, { ...inDefault, body })
    await expect(create({ name: 'store', values } as never)).rejects.toMatchObject({ code: 'forbidden' })
    const wrong = service.owner.call(api.createCredential, {
      ...inDefault,
      body: { name: 'store', values: { kind: 's3', access_key_id: 'a' } as never },
    })
    await expect(wrong).rejects.toMatchObject({ code: 'invalid_request', param: 'values.secret_access_key' })
  })
})

test('a sealed text opens with its key, for its owner, unchanged, and not otherwise', () => {
  const sealed = sealer.seal('geheim', 'a/1')
  expect(sealer.open(sealed, 'a/1')).toBe('geheim')
  expect(sealer.seal('geheim', 'a/1')).not.toBe(sealed)
  expect(() => sealer.open(sealed, 'a/2')).toThrow(/changed, or moved/)
  const [version, id, body] = sealed.split('.')
  const flipped = Buffer.from(body!, 'base64url')
  flipped[15]! ^= 1
  expect(() => sealer.open([version, id, flipped.toString('base64url')].join('.'), 'a/1')).toThrow(/changed/)
  expect(() => new Sealer(new Uint8Array(32)).open(sealed, 'a/1')).toThrow(/was encrypted with the key/)
})

test('a key file is made once, for its owner alone, and one that others may read is refused', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-key-'))
  const path = join(folder, 'key')
  const first = sealerFromFile(path)
  expect(statSync(path).mode & 0o777).toBe(0o600)
  expect(sealerFromFile(path).keyId).toBe(first.keyId)
  const program = join(folder, 'print-key')
  writeFileSync(program, `#!/bin/sh\ncat ${path}\n`, { mode: 0o755 })
  expect(sealerFromCommand(program).keyId).toBe(first.keyId)
  writeFileSync(join(folder, 'open'), readFileSync(path), { mode: 0o644 })
  expect(() => sealerFromFile(join(folder, 'open'))).toThrow(/Others than its owner/)
  expect(() => sealerFromCommand('/bin/true')).toThrow(/no key of 32 bytes/)
  rmSync(folder, { recursive: true })
})
