import type { FormEvent } from 'react'
import {
  createCluster,
  deleteCluster,
  deleteQuota,
  editCluster,
  giveUpCluster,
  listClusters,
  listQuotas,
  setQuota,
} from '../../../src/api/control/machine-endpoints.ts'
import { whoAmI } from '../../../src/api/control/people.ts'
import { Confirm } from '../parts/confirm.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'

const devicePattern = '[A-Za-z0-9][A-Za-z0-9._\\-]*'

/** Where jobs and replicas run, who has the devices, and what the project may have of them. */
export function Machines() {
  const project = useProject()
  const who = useAnswer(whoAmI, {})
  const isOperator = who.data?.person.is_operator === true
  return (
    <>
      <h1>Machines</h1>
      {who.data && !isOperator && (
        <p className="empty">Only who runs this service changes its machines and quotas.</p>
      )}
      <Clusters isOperator={isOperator} />
      <h2>What {project} may use at the same time</h2>
      <Quotas project={project} isOperator={isOperator} />
    </>
  )
}

interface Slots {
  readonly name: string
  readonly slots: Readonly<Record<string, number>>
}

function Clusters({ isOperator }: { isOperator: boolean }) {
  const { data, error } = useAnswer(listClusters, {}, { every: seldom })
  const changes = ['clusters.']
  const open = useDeed(
    ({ cluster, open }: { cluster: string; open: boolean }) =>
      service.call(editCluster, { params: { cluster }, body: { open } }),
    changes,
  )
  const giveUp = useDeed(
    (cluster: string) => service.call(giveUpCluster, { params: { cluster } }),
    [...changes, 'jobs.', 'deployments.'],
  )
  const remove = useDeed((cluster: string) => service.call(deleteCluster, { params: { cluster } }), changes)
  const isBusy = open.isPending || giveUp.isPending || remove.isPending
  return (
    <>
      <Problem error={error ?? open.error ?? giveUp.error ?? remove.error} />
      {giveUp.data && (
        <p className="quiet" role="status">
          {giveUp.data.jobs} jobs and {giveUp.data.deployments} deployments go on elsewhere.
        </p>
      )}
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="There is no machine yet: ropeway up makes the one that it runs on."
        columns={{
          Cluster: ({ name }) => name,
          'Devices that jobs have': ({ slots, used }) => (
            <ul className="plain">
              {Object.entries(slots).map(([type, devices]) => (
                <li key={type}>
                  {used[type] ?? 0} of {devices} {type}
                </li>
              ))}
            </ul>
          ),
          'New jobs': ({ open, gone }) => (gone ? 'none: its server is gone' : open ? 'yes' : 'no'),
          'Last seen': ({ last_seen_at: at }) => (at === null ? 'not yet' : <Ago at={at} />),
          '': ({ name, open: isOpen, gone }) =>
            isOperator && (
              <span className="row">
                <button
                  type="button"
                  disabled={isBusy}
                  onClick={() => open.mutate({ cluster: name, open: !isOpen })}
                >
                  {isOpen ? 'Take no new jobs' : 'Take new jobs'}
                </button>
                {gone && (
                  <Confirm
                    verb="Give up"
                    title={`Is the machine of ${name} lost?`}
                    isBusy={isBusy}
                    onConfirm={() => giveUp.mutate(name)}
                  >
                    Its jobs and deployments go on elsewhere. Where it still runs, they would run twice.
                  </Confirm>
                )}
                <Confirm
                  verb="Delete"
                  title={`Delete the cluster ${name}?`}
                  isBusy={isBusy}
                  onConfirm={() => remove.mutate(name)}
                >
                  A server of it that comes up makes it again.
                </Confirm>
              </span>
            ),
        }}
      />
      {isOperator && <SlotsForm known={data?.items ?? []} />}
    </>
  )
}

/** Says how many devices of a type a cluster has: one that there is, or one that is to come. */
function SlotsForm({ known }: { known: readonly (Slots & { readonly version: number })[] }) {
  const set = useDeed(
    ({ name, slots }: Slots) => {
      const before = known.find((one) => one.name === name)
      if (before === undefined) return service.call(createCluster, { body: { name, slots } })
      const body = { slots: { ...before.slots, ...slots }, version: before.version }
      return service.call(editCluster, { params: { cluster: name }, body })
    },
    ['clusters.'],
  )
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const devices = Number(given.get('devices'))
    set.mutate({ name: String(given.get('name')), slots: { [String(given.get('type'))]: devices } })
  }
  return (
    <>
      <form onSubmit={send} className="row">
        <label>
          Cluster, new or one that there is
          <input name="name" required maxLength={63} pattern={devicePattern} list="clusters" />
          <datalist id="clusters">
            {known.map(({ name }) => (
              <option key={name} value={name} />
            ))}
          </datalist>
        </label>
        <DeviceFields label="has so many" />
        <button type="submit" className="main" disabled={set.isPending}>
          Set
        </button>
      </form>
      <Problem error={set.error} />
    </>
  )
}

function DeviceFields({ label }: { label: string }) {
  return (
    <>
      <label>
        {label}
        <input name="devices" type="number" required min={0} max={100_000} />
      </label>
      <label>
        of device
        <input name="type" required maxLength={40} pattern={devicePattern} placeholder="cpu, h100 ..." />
      </label>
    </>
  )
}

function Quotas({ project, isOperator }: { project: string; isOperator: boolean }) {
  const { data, error } = useAnswer(listQuotas, { params: { project } }, { every: seldom })
  const set = useDeed(
    ({ device, devices }: { device: string; devices: number }) =>
      service.call(setQuota, { params: { project, device }, body: { devices } }),
    ['quotas.'],
  )
  const remove = useDeed(
    (device: string) => service.call(deleteQuota, { params: { project, device } }),
    ['quotas.'],
  )
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    set.mutate({ device: String(given.get('type')), devices: Number(given.get('devices')) })
  }
  return (
    <>
      <Problem error={error ?? set.error ?? remove.error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="As many devices as there are."
        columns={{
          Device: ({ device }) => device,
          'At most': ({ devices }) => devices,
          'Has now': ({ used }) => used,
          '': ({ device }) =>
            isOperator && (
              <button type="button" disabled={remove.isPending} onClick={() => remove.mutate(device)}>
                Take the limit away
              </button>
            ),
        }}
      />
      {isOperator && (
        <form onSubmit={send} className="row">
          <DeviceFields label="At most" />
          <button type="submit" className="main" disabled={set.isPending}>
            Limit
          </button>
        </form>
      )}
    </>
  )
}
