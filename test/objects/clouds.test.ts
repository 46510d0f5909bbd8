import { generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { jwtVerify } from 'jose'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ManualClock, systemClock } from '../../src/base/clock.ts'
import { AzureReader } from '../../src/control/objects/azure.ts'
import { GoogleToken } from '../../src/control/objects/google-token.ts'
import { openPlace } from '../../src/control/objects/places.ts'
import { type Azurite, account, azuriteMissing, key, startAzurite } from './azurite.ts'
import { bytesOf, hash, read, textOf } from './bytes.ts'
import { type Swift, startSwift, swiftMissing } from './swift.ts'

const names = ['l/a b', "l/a'(!*)", 'l/a+b', 'l/a/1', 'l/a&amp;<b>', 'l/a%20b', 'l/é', 'l/한국어.txt', 'm']

describe('Azure Blob Storage', () => {
  const missing = azuriteMissing()
  if (missing !== undefined) console.warn(`skipped: Azure Blob Storage (${missing})`)
  let azurite: Azurite | undefined
  let endpoint = ''
  const open = (prefix = 'some/where', with_: { key: string } | { sasToken: string } = { key }) =>
    new AzureReader({ account, container: 'tests', prefix, endpoint }, with_, systemClock)

  beforeAll(async () => {
    if (missing !== undefined) return
    azurite = await startAzurite()
    endpoint = azurite.endpoint
    for (const name of names) await azurite.put(`some/where/${name}`, Buffer.from(name))
    await azurite.put('elsewhere', Buffer.from('x'))
  })
  afterAll(() => azurite?.stop())

  test.skipIf(missing !== undefined)(
    'blobs are listed below a prefix, page by page, whatever is in their names',
    async () => {
      const { objects, more } = await open().list()
      expect([objects.map(({ key: name }) => name).sort(), more]).toEqual([[...names].sort(), false])
      for (const { key: name, tag } of objects) {
        expect((await open().head(name))?.tag).toBe(tag)
        expect(await textOf(await open().get(name))).toBe(name)
      }
      const paged: string[] = []
      const place = open()
      for (let after: string | undefined, goesOn = true; goesOn; after = paged.at(-1)) {
        const page = await place.list({ prefix: 'l/', limit: 2, ...(after !== undefined && { after }) })
        paged.push(...page.objects.map(({ key: name }) => name))
        goesOn = page.more
      }
      expect(paged.sort()).toEqual(names.filter((name) => name !== 'm').sort())
      const behind = await open().list({ after: 'l/a/1', limit: 1 })
      expect([behind.objects.length, behind.more]).toEqual([1, true])
    },
  )

  test.skipIf(missing !== undefined)('blobs are read by ranges, and never as a mixture of two', async () => {
    const large = bytesOf(5, 200_000)
    await azurite!.put('some/where/large', large)
    expect(hash(await read((await open().get('large'))!))).toBe(hash(large))
    expect(await read((await open().get('large', { start: 100, end: 104 }))!)).toEqual(
      large.subarray(100, 104),
    )
    const body = await open().get('large')
    await azurite!.put('some/where/large', Buffer.from('new'))
    await expect(read(body!)).rejects.toThrow(/was replaced or removed/)
    expect(await open().get('nothing')).toBeUndefined()
    expect(await open().head('nothing')).toBeUndefined()
  })

  test.skipIf(missing !== undefined)(
    'a wrong key and a missing container are refusals that say what to do',
    async () => {
      const wrong = open('', { key: Buffer.from('guessed').toString('base64') })
      await expect(wrong.list()).rejects.toMatchObject({ failure: 'auth', fix: /credential/ })
      await expect(open('', { sasToken: 'sv=2021-12-02&sig=guessed' }).list()).rejects.toMatchObject({
        failure: 'auth',
      })
      const nowhere = new AzureReader(
        { account, container: 'none', prefix: '', endpoint },
        { key },
        systemClock,
      )
      await expect(nowhere.list()).rejects.toMatchObject({ failure: 'not_found' })
    },
  )
})

describe('Google Cloud Storage', () => {
  const keys = generateKeyPairSync('rsa', { modulusLength: 2048 })
  let server: Server
  let endpoint = ''
  const asked: string[] = []
  beforeAll(async () => {
    server = createServer(async (request, response) => {
      const url = new URL(request.url!, endpoint)
      if (url.pathname === '/token') {
        const form = new URLSearchParams((await request.toArray()).join(''))
        asked.push(form.get('grant_type')!)
        // Whoever signed it has the account's private key.
        const { payload } = await jwtVerify(form.get('assertion')!, keys.publicKey, {
          ...{ issuer: 'robot@example.org', audience: `${endpoint}/token` },
          currentDate: new Date(1_700_000_000_000),
        })
        const access_token = `token-${asked.length}`
        response.setHeader('x-scope', String(payload.scope))
        return response.end(JSON.stringify({ access_token, expires_in: 3600, token_type: 'Bearer' }))
      }
      if (request.headers.authorization !== `Bearer token-${asked.length}`)
        return response.writeHead(401).end()
      // As "XML API: List Objects" shows it.
      if (url.searchParams.get('list-type') === '2')
        return response.end(
          `<?xml version='1.0'?><ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated><Contents><Key>data/one.txt</Key>` +
            `<Generation>1</Generation><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>"e1"</ETag><Size>3</Size></Contents></ListBucketResult>`,
        )
      response.writeHead(200, {
        etag: '"e1"',
        'content-length': 3,
        'last-modified': 'Thu, 01 Jan 2026 00:00:00 GMT',
      })
      return response.end(request.method === 'HEAD' ? undefined : 'one')
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  })
  afterAll(() => {
    server.closeAllConnections()
    server.close()
  })
  const accountFile = () =>
    JSON.stringify({
      ...{ type: 'service_account', client_email: 'robot@example.org', private_key_id: '1' },
      ...{
        private_key: keys.privateKey.export({ type: 'pkcs8', format: 'pem' }),
        token_uri: `${endpoint}/token`,
      },
    })

  test('a service account gets a token by its key, keeps it for its hour, and reads the bucket with it', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    const credential = async () => ({ service_account: accountFile() })
    const access = { folders: [], clock, credential }
    const link = { url: 'gs://b/data', credential: 'google', endpoint }
    const place = await openPlace(link, 'p', access)
    expect((await place.list()).objects).toMatchObject([{ key: 'one.txt', bytes: 3, tag: 'e1' }])
    expect(await textOf(await (await openPlace(link, 'p', access)).get('one.txt'))).toBe('one')
    expect(asked).toEqual(['urn:ietf:params:oauth:grant-type:jwt-bearer'])
    clock.advance(3600 * 1000)
    await place.list()
    expect(asked.length).toBe(2)
  })

  test('what is no key file of a service account is refused with what to store', () => {
    for (const text of ['', '{}', '"x"'])
      expect(() => new GoogleToken(text, new ManualClock(0)), text).toThrow(
        /no key file of a service account/,
      )
  })

  const missing = swiftMissing()
  test.skipIf(missing !== undefined)(
    'an HMAC key reads by signatures, shown on a server that checks them',
    async () => {
      const swift: Swift = await startSwift()
      try {
        const { accessKeyId: access_key_id, secretAccessKey: secret_access_key } = swift
        const s3 = { access_key_id, secret_access_key, region: swift.region }
        const credential = async () => s3
        const access = { folders: [], clock: systemClock, credential }
        const link = {
          url: 'gs://bucket/x',
          credential: 'google',
          endpoint: swift.endpoint,
          region: swift.region,
        }
        await expect((await openPlace(link, 'p', access)).list()).rejects.toThrow(/NoSuchBucket/)
      } finally {
        await swift.stop()
      }
    },
  )
})
