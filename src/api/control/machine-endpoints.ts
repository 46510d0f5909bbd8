import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { deviceType } from './jobs.ts'
import { clusterSpec, clusterView, quotaView } from './machines.ts'

export const listClusters = endpoint({
  name: 'clusters.list',
  method: 'GET',
  path: '/clusters',
  summary: 'Clusters, their devices by type, and how many of them jobs have now.',
  access: 'signed_in',
  answer: z.object({ items: z.array(clusterView) }),
})

export const editCluster = endpoint({
  name: 'clusters.edit',
  method: 'PATCH',
  path: '/clusters/:cluster',
  summary: 'Set the devices of a cluster, or whether it takes new jobs.',
  access: 'operator',
  body: clusterSpec.pick({ slots: true, open: true }).partial(),
  answer: clusterView,
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
