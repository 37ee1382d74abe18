//! The pages for people, and what keeps them safe.

mod browser;
mod pages;
mod safety;
