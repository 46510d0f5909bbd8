import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { RouterProvider } from '@tanstack/react-router'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { router } from './router.tsx'
import { mayHelp } from './service.ts'
import './style.css'

const queries = new QueryClient({
  defaultOptions: {
    // What was refused is refused again; what could not be reached may be back.
    queries: { retry: (failures, error) => failures < 3 && mayHelp(error), staleTime: 500 },
    // Some are asked with secrets or answered by them: those go with what shows them.
    mutations: { gcTime: 0 },
  },
})

createRoot(document.getElementById('page')!).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <RouterProvider router={router} />
    </QueryClientProvider>
  </StrictMode>,
)
