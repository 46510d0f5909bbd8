import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { S3Store } from '../../src/control/objects/s3.ts'
import { S3Client } from '../../src/control/objects/s3-client.ts'
import { partBytesMin } from '../../src/control/objects/store.ts'
import { bytesOf, hash, read } from './bytes.ts'
import { objectStoreSuite } from './suite.ts'
import { type Swift, startSwift, swiftMissing } from './swift.ts'

const missing = swiftMissing()
if (missing !== undefined) console.warn(`skipped: S3 against OpenStack Swift (${missing})`)

function clientOf(
  swift: Swift,
  changes: { bucket?: string; prefix?: string; secret?: string } = {},
): S3Client {
  const { bucket = 'tests', prefix = 'some/where', secret = swift.secretAccessKey } = changes
  const place = { bucket, prefix, region: swift.region, endpoint: swift.endpoint }
  return new S3Client(place, { accessKeyId: swift.accessKeyId, secretAccessKey: secret }, 1)
}

describe.skipIf(missing !== undefined)('S3', () => {
  let swift: Swift
  beforeAll(async () => {
    swift = await startSwift()
    await clientOf(swift).send({ method: 'PUT' })
  })
  afterAll(() => swift?.stop())

  objectStoreSuite('a bucket of OpenStack Swift, below a prefix', async () => ({
    open: () => new S3Store(clientOf(swift)),
    presigns: true,
    close: async () => {},
  }))

  test('an object that is too large for one copy is copied by parts', async () => {
    const store = new S3Store(clientOf(swift), { copyBytesMax: partBytesMin })
    const bytes = bytesOf(3, partBytesMin + 77)
    await store.put('large', bytes, hash(bytes))
    expect(await store.copy('large', 'copied')).toBe(true)
    expect(hash(await read((await store.get('copied'))!))).toBe(hash(bytes))
  })

  test('a wrong secret, and a bucket that is not there, are refusals that say what to do', async () => {
    const wrong = new S3Store(clientOf(swift, { secret: 'guessed' }))
    await expect(wrong.list()).rejects.toMatchObject({ failure: 'auth', fix: /credential/ })
    await expect(wrong.head('x')).rejects.toMatchObject({ failure: 'auth' })
    const nowhere = new S3Store(clientOf(swift, { bucket: 'nowhere' }))
    await expect(nowhere.list()).rejects.toMatchObject({ failure: 'not_found', message: /NoSuchBucket/ })
    await expect(wrong.list()).rejects.not.toThrow(/guessed/)
  })

  test('the server itself refuses bytes that are not those of the hash', async () => {
    const body = Buffer.from('on the way')
    const sent = clientOf(swift).send({ method: 'PUT', key: 'x', body, sha256: hash(Buffer.from('other')) })
    await expect(sent).rejects.toMatchObject({ code: expect.stringMatching(/BadDigest|Sha256|SHA256/) })
  })
})
