/** Machines and quotas in the page: set by who runs the service, seen by everybody. */
import { expect, test } from 'vitest'
import { createJobEndpoint, viewJob } from '../../src/api/control/job-endpoints.ts'
import { editCluster } from '../../src/api/control/machine-endpoints.ts'
import { systemClock } from '../../src/base/clock.ts'
import { jobRoom } from '../../src/cli/service-parts.ts'
import { ropeway } from '../cli/command-line.ts'
import { addMember } from '../service/running.ts'
import { describeAtThePage } from './at-the-page.ts'
import { complaintsOf, signIn } from './browser.ts'

describeAtThePage('machines in the page', { clock: systemClock, links: ['Machines'] }, (at) => {
  const slotsOf = async (name: string) => {
    const { json } = await ropeway(['cluster', 'list', '--json'])
    return json.find((one) => one.name === name)?.slots
  }
  const set = async (cluster: string, devices: string, type: string) => {
    await at.page.getByLabel('Cluster, new').fill(cluster)
    await at.page.getByLabel('has so many').fill(devices)
    await at.page.getByLabel('of device').first().fill(type)
    await at.page.getByRole('button', { name: 'Set' }).click()
  }

  test('a cluster is made before its machine comes, gets more devices, and keeps those it had', async () => {
    await set('cellar', '4', 'cpu')
    await at.page.getByRole('row', { name: 'cellar 0 of 4 cpu yes not yet' }).waitFor()
    await set('cellar', '8', 'h100')
    await at.page.getByRole('row', { name: /^cellar 0 of 4 cpu 0 of 8 h100/ }).waitFor()
    expect(await slotsOf('cellar')).toEqual({ cpu: 4, h100: 8 })
    await at.page.getByRole('button', { name: 'Take no new jobs' }).click()
    await at.page.getByRole('row', { name: /^cellar .* no not yet/ }).waitFor()
    await at.page.getByRole('button', { name: 'Take new jobs' }).click()
    await at.page.getByRole('row', { name: /^cellar .* yes not yet/ }).waitFor()
  })

  test('what somebody else sets meanwhile is not undone: the page says so, and shows it', async () => {
    const path = '**/api/v1/clusters/cellar'
    await at.page.route(
      path,
      async (route) => {
        const body = { slots: { cpu: 4, h100: 8, tpu: 2 } }
        await at.bench.service.owner.call(editCluster, { params: { cluster: 'cellar' }, body })
        await route.continue()
      },
      { times: 1 },
    )
    await set('cellar', '16', 'h100')
    await at.page.getByText('Somebody changed the cluster cellar meanwhile').waitFor()
    await at.page.getByRole('row', { name: /^cellar 0 of 4 cpu 0 of 8 h100 0 of 2 tpu/ }).waitFor()
    await at.page.getByRole('button', { name: 'Set' }).click()
    await at.page.getByRole('row', { name: /^cellar 0 of 4 cpu 0 of 16 h100 0 of 2 tpu/ }).waitFor()
    expect(await slotsOf('cellar')).toEqual({ cpu: 4, h100: 16, tpu: 2 })
  })

  test('what a job has shows, of its cluster and of its project', async () => {
    await at.page.getByText('As many devices as there are.').waitFor()
    await at.page.getByLabel('At most').fill('3')
    await at.page.getByLabel('of device').last().fill('cpu')
    await at.page.getByRole('button', { name: 'Limit' }).click()
    await at.page.getByRole('row', { name: 'cpu 3 0' }).waitFor()
    const params = { project: 'default' }
    const file = { name: 'long', run: ['sleep', '600'], job: { cluster: 'local' } }
    const loop = await jobRoom(at.bench.parts).start()
    try {
      const { id } = await at.bench.service.owner.call(createJobEndpoint, { params, body: { file } })
      await at.page.getByRole('row', { name: 'cpu 3 1' }).waitFor()
      await at.page.getByRole('row', { name: /^local 1 of \d+ cpu/ }).waitFor()
      await ropeway(['job', 'stop', id, '--wait'])
      const { state } = await at.bench.service.owner.call(viewJob, { params: { ...params, job: id } })
      expect(state).toBe('stopped')
      await at.page.getByRole('row', { name: 'cpu 3 0' }).waitFor()
    } finally {
      await loop.stop()
    }
    await at.page.getByRole('button', { name: 'Take the limit away' }).click()
    await at.page.getByText('As many devices as there are.').waitFor()
  })

  test('a cluster that runs nothing is deleted when that was confirmed', async () => {
    const row = at.page.getByRole('row', { name: /^cellar/ })
    await row.getByRole('button', { name: 'Delete' }).click()
    await at.page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click()
    await row.waitFor({ state: 'detached' })
    expect(await slotsOf('cellar')).toBe(undefined)
    expect(at.complaints.filter((text) => !/status of (401|409)/.test(text))).toEqual([])
  })

  test('who does not run the service sees them, and who may change them', async () => {
    const other = await signIn(
      at.browser,
      at.bench.service.url,
      await addMember(at.bench.service, 'ada', 'admin'),
    )
    const refused = complaintsOf(other)
    await other.getByRole('link', { name: 'Machines', exact: true }).click()
    await other.getByRole('row', { name: /^local 0 of/ }).waitFor()
    await other.getByText('Only who runs this service changes').waitFor()
    await other.getByText('As many devices as there are.').waitFor()
    await expect.poll(() => other.locator('main').getByRole('button').count()).toBe(0)
    expect(refused).toEqual([])
  })
})
