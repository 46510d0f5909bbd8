/** Which address shows which page. A page that the service should answer for stands in its surface.ts too. */
import { createRootRoute, createRoute, createRouter, Outlet } from '@tanstack/react-router'
import { Layout } from './layout.tsx'
import { Account } from './pages/account.tsx'
import { Checkpoints } from './pages/checkpoints.tsx'
import { Credentials } from './pages/credentials.tsx'
import { DatasetPage } from './pages/dataset.tsx'
import { Datasets } from './pages/datasets.tsx'
import { DeploymentPage } from './pages/deployment.tsx'
import { Deployments } from './pages/deployments.tsx'
import { FirstProject } from './pages/first-project.tsx'
import { History } from './pages/history.tsx'
import { JobPage } from './pages/job.tsx'
import { Jobs } from './pages/jobs.tsx'
import { Keys } from './pages/keys.tsx'
import { Machines } from './pages/machines.tsx'
import { Members } from './pages/members.tsx'
import { ModelPage } from './pages/model.tsx'
import { Models } from './pages/models.tsx'
import { NewJob } from './pages/new-job.tsx'
import { Overview } from './pages/overview.tsx'
import { SignIn } from './pages/sign-in.tsx'
import { Templates } from './pages/templates.tsx'
import { Usage } from './pages/usage.tsx'
import { Problem } from './parts/problem.tsx'

const root = createRootRoute({ component: Outlet, notFoundComponent: NothingHere })
const signIn = createRoute({ getParentRoute: () => root, path: '/sign-in', component: SignIn })
const inside = createRoute({ getParentRoute: () => root, id: 'inside', component: Layout })
const first = createRoute({ getParentRoute: () => inside, path: '/', component: FirstProject })
const account = createRoute({ getParentRoute: () => inside, path: '/account', component: Account })
const project = createRoute({ getParentRoute: () => inside, path: '/projects/$project', component: Outlet })
const under = { getParentRoute: () => project } as const
const overview = createRoute({ ...under, path: '/', component: Overview })
const jobs = createRoute({ ...under, path: '/jobs', component: Jobs })
const newJob = createRoute({ ...under, path: '/new-job', component: NewJob })
const templates = createRoute({ ...under, path: '/templates', component: Templates })
const job = createRoute({ ...under, path: '/jobs/$job', component: JobPage })
const datasets = createRoute({ ...under, path: '/data', component: Datasets })
const dataset = createRoute({ ...under, path: '/data/$dataset', component: DatasetPage })
const models = createRoute({ ...under, path: '/models', component: Models })
const model = createRoute({ ...under, path: '/models/$model', component: ModelPage })
const checkpoints = createRoute({ ...under, path: '/checkpoints', component: Checkpoints })
const usage = createRoute({ ...under, path: '/usage', component: Usage })
const keys = createRoute({ ...under, path: '/keys', component: Keys })
const credentials = createRoute({ ...under, path: '/credentials', component: Credentials })
const machines = createRoute({ ...under, path: '/machines', component: Machines })
const history = createRoute({ ...under, path: '/history', component: History })
const members = createRoute({ ...under, path: '/members', component: Members })
const deployments = createRoute({ ...under, path: '/deployments', component: Deployments })
const deployment = createRoute({ ...under, path: '/deployments/$deployment', component: DeploymentPage })

export const router = createRouter({
  defaultErrorComponent: ({ error }) => <Problem error={error} />,
  routeTree: root.addChildren([
    signIn,
    inside.addChildren([
      first,
      account,
      project.addChildren([
        ...[overview, datasets, dataset, jobs, newJob, job, templates, models, model],
        ...[checkpoints, deployments, deployment, usage, keys, credentials, machines, members, history],
      ]),
    ]),
  ]),
})

declare module '@tanstack/react-router' {
  interface Register {
    router: typeof router
  }
}

function NothingHere() {
  return (
    <main>
      <h1>Nothing here</h1>
      <p>
        This page has no such address. <a href="/">Go to its beginning.</a>
      </p>
    </main>
  )
}
