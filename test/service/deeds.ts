/** What people do to the nouns of the service, a line each, for tests that let the service fail in the middle. */

import type { Client } from '../../src/api/control/client.ts'
import { createCredential, listCredentials } from '../../src/api/control/credentials.ts'
import * as datasets from '../../src/api/control/datasets.ts'
import * as deployments from '../../src/api/control/deployments.ts'
import { partBytesOf } from '../../src/api/control/digest.ts'
import { createJobEndpoint, stopJob, viewJob } from '../../src/api/control/job-endpoints.ts'
import { saveTemplate, viewTemplate } from '../../src/api/control/job-templates.ts'
import { createKey } from '../../src/api/control/keys.ts'
import { listQuotas, setQuota } from '../../src/api/control/machine-endpoints.ts'
import * as models from '../../src/api/control/models.ts'
import { whoAmI } from '../../src/api/control/people.ts'
import { listBudgets, putBudget } from '../../src/api/control/usage.ts'
import { announcementOf, partsOf } from '../datasets/harness.ts'
import { bytesOf } from '../objects/bytes.ts'

const project = 'default'
const params = { project }

/** Something that a client does under a new name and that is there once it was answered. */
export interface Deed {
  readonly needs?: (client: Client) => Promise<void>
  /** Returns what `isThere` needs to know. */
  readonly act: (client: Client, name: string, index: number) => Promise<string | undefined>
  readonly isThere: (
    client: Client,
    name: string,
    known: string | undefined,
    index: number,
  ) => Promise<boolean>
}

const content = bytesOf(1000, 64)
const twoParts = bytesOf(9, partBytesOf(1) + 5)

async function upload(client: Client, bytes: Uint8Array): Promise<string> {
  const { id, missing } = await client.call(datasets.beginUpload, { params, body: announcementOf(bytes) })
  for (const part of missing)
    await client.call(datasets.putPart, {
      params: { project, upload: id, part: String(part) },
      body: partsOf(bytes)[part - 1]! as Uint8Array<ArrayBuffer>,
    })
  return (await client.call(datasets.completeUpload, { params: { project, upload: id } })).id
}

async function checkpointOf(client: Client, name: string, path = 'a'): Promise<undefined> {
  // Sent already, so this says only which blob it is.
  const { id: blob } = await client.call(datasets.beginUpload, { params, body: announcementOf(content) })
  await client.call(models.createCheckpoint, { params, body: { name, files: [{ path, blob }] } })
}

const sent = async (client: Client) => void (await upload(client, content))

export const deeds: Readonly<Record<string, Deed>> = {
  'an upload of two parts': {
    act: async (client) => await upload(client, twoParts),
    isThere: async (client) => {
      const { ready, missing } = await client.call(datasets.beginUpload, {
        params,
        body: announcementOf(twoParts),
      })
      return ready && missing.length === 0
    },
  },
  'a version of a dataset': {
    needs: sent,
    act: async (client, dataset) => {
      const { id: blob } = await client.call(datasets.beginUpload, { params, body: announcementOf(content) })
      const body = { files: [{ path: 'a', blob }] }
      await client.call(datasets.addVersion, { params: { project, dataset }, body })
      return undefined
    },
    isThere: async (client, dataset) => {
      const answer = await client.bytes(datasets.readFile, {
        params: { project, dataset },
        query: { path: 'a' },
      })
      return Buffer.from(await answer.arrayBuffer()).equals(Buffer.from(content))
    },
  },
  'a checkpoint': {
    needs: sent,
    act: (client, name) => checkpointOf(client, name),
    isThere: async (client, checkpoint) => {
      const at = { params: { project, checkpoint }, query: { path: 'a' } }
      const answer = await client.bytes(models.checkpointContent, at)
      return Buffer.from(await answer.arrayBuffer()).equals(Buffer.from(content))
    },
  },
  'a model with an alias': {
    needs: async (client) => {
      await sent(client)
      await checkpointOf(client, 'to-promote')
    },
    act: async (client, model) => {
      const body = { checkpoint: 'to-promote', alias: 'prod' }
      await client.call(models.promote, { params: { project, model }, body })
      return undefined
    },
    isThere: async (client, model) => {
      const found = await client.call(models.viewModel, { params: { project, model: `${model}:prod` } })
      return found.checkpoint.name === 'to-promote'
    },
  },
  'a deployment': {
    needs: async (client) => {
      await sent(client)
      await checkpointOf(client, 'to-serve', 'config.json')
      await client.call(models.promote, {
        params: { project, model: 'served' },
        body: { checkpoint: 'to-serve' },
      })
    },
    act: async (client, name) => {
      const body = { name, version: { model: 'served' } }
      await client.call(deployments.createDeployment, { params, body })
      return undefined
    },
    isThere: async (client, deployment) =>
      (await client.call(deployments.showDeployment, { params: { project, deployment } })).name ===
      deployment,
  },
  'a job that is stopped': {
    act: async (client, name) => {
      const { id } = await client.call(createJobEndpoint, { params, body: { name, file: { run: ['true'] } } })
      return (await client.call(stopJob, { params: { project, job: id } })).id
    },
    isThere: async (client, name, id) => {
      const job = await client.call(viewJob, { params: { project, job: id! } })
      return job.name === name && job.state === 'stopped'
    },
  },
  'a template': {
    act: async (client, template) => {
      await client.call(saveTemplate, { params: { project, template }, body: { file: { run: ['true'] } } })
      return undefined
    },
    isThere: async (client, template) =>
      (await client.call(viewTemplate, { params: { project, template } })).name === template,
  },
  'a key': {
    act: async (client, name) => (await client.call(createKey, { params, body: { name } })).key,
    isThere: async (client, _, key) => {
      const { url } = client
      const holder = new (client.constructor as typeof Client)({ url, token: key! })
      return (await holder.call(whoAmI, {})).projects.length === 1
    },
  },
  'a credential': {
    act: async (client, name) => {
      const values = { kind: 'huggingface', token: 'hf' } as const
      await client.call(createCredential, { params, body: { name, values } })
      return undefined
    },
    isThere: async (client, name) => {
      for await (const one of client.items(listCredentials, { params })) if (one.name === name) return true
      return false
    },
  },
  'a budget': {
    act: async (client, name, index) => {
      const { id } = await client.call(createKey, { params, body: { name } })
      await client.call(putBudget, { params, body: { per: 'day', key: id, tokens: 1 + index } })
      return id
    },
    isThere: async (client, _, id) =>
      (await client.call(listBudgets, { params })).items.some(({ key }) => key === id),
  },
  'a quota': {
    act: async (client, _, index) => {
      await client.call(setQuota, { params: { project, device: `d${index}` }, body: { devices: index } })
      return undefined
    },
    isThere: async (client, _, __, index) =>
      (await client.call(listQuotas, { params })).items.some(({ device }) => device === `d${index}`),
  },
}
