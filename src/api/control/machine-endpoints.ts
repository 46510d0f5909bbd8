import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { expectedVersion } from './fields.ts'
import { deviceType, placeName } from './jobs.ts'
import { clusterSpec, clusterView, quotaView } from './machines.ts'

export const listClusters = endpoint({
  name: 'clusters.list',
  method: 'GET',
  path: '/clusters',
  summary: 'Clusters, their devices by type, and how many of them jobs have now.',
  access: 'signed_in',
  answer: z.object({ items: z.array(clusterView) }),
})

export const createCluster = endpoint({
  name: 'clusters.create',
  method: 'POST',
  once: true,
  path: '/clusters',
  summary: 'Say which devices a cluster of this name will have, before a server of it comes up.',
  access: 'operator',
  body: clusterSpec.extend({ kind: z.literal('local').default('local'), name: placeName }),
  answer: clusterView,
})

export const viewCluster = endpoint({
  name: 'clusters.view',
  method: 'GET',
  path: '/clusters/:cluster',
  summary: 'One cluster, by name.',
  access: 'signed_in',
  answer: clusterView,
})

export const deleteCluster = endpoint({
  name: 'clusters.delete',
  method: 'DELETE',
  path: '/clusters/:cluster',
  summary: 'Forget a cluster that runs nothing. A server of it that comes up makes it again.',
  access: 'operator',
  answer: 'nothing',
})

export const editCluster = endpoint({
  name: 'clusters.edit',
  method: 'PATCH',
  path: '/clusters/:cluster',
  summary: 'Set the devices of a cluster, or whether it takes new jobs.',
  access: 'operator',
  body: clusterSpec.pick({ slots: true, open: true }).partial().extend({ version: expectedVersion }),
  answer: clusterView,
})

export const giveUpCluster = endpoint({
  name: 'clusters.give_up',
  method: 'POST',
  once: true,
  path: '/clusters/:cluster/give-up',
  summary:
    'Say that a machine is lost: its jobs and deployments go on elsewhere. Refused while its server is there.',
  access: 'operator',
  answer: z.object({ jobs: z.int(), deployments: z.int() }),
})

export const listQuotas = endpoint({
  name: 'quotas.list',
  method: 'GET',
  path: '/projects/:project/quotas',
  summary: 'How many devices of each type a project may use; a type that is not there has no limit.',
  access: 'machine:view',
  answer: z.object({ items: z.array(quotaView) }),
})

export const setQuota = endpoint({
  name: 'quotas.set',
  method: 'PUT',
  path: '/projects/:project/quotas/:device',
  summary: 'Limit the devices of a type that a project may use.',
  access: 'operator',
  params: { device: deviceType },
  body: quotaView.pick({ devices: true }),
  answer: quotaView,
})

export const deleteQuota = endpoint({
  name: 'quotas.delete',
  method: 'DELETE',
  path: '/projects/:project/quotas/:device',
  summary: 'Take a limit away.',
  access: 'operator',
  answer: 'nothing',
})
